"""The lock as a value: every input by name, version, file name, size and sha256. No host names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from envbuild.oci.layer import Layer
from envbuild.recipe.model import Ref

FORMAT = 2
"""The lock's format number. A digest that changes without a new number fails the tests."""

Kind = Literal["wheel", "sdist", "deb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One locked file.

    ``file`` is the wheel's or sdist's file name, or a .deb's path in its repository (``pool/main/…``).
    ``size`` is in bytes, ``sha256`` 64 hex digits. ``index`` is an alias: ``python``,
    ``debian/<suite>/<component>``, or ``built``.
    ``uploaded`` is the index's upload time (RFC 3339, UTC), where it tells one. ``licence`` is what the file says of
    itself, an SPDX expression where one is known, else a short text; read when it is at hand, and no part of what
    the artifact is: two that differ only in it are equal.
    """

    kind: Kind
    name: str
    version: str
    file: str
    size: int
    sha256: str
    index: str
    uploaded: str | None = None
    licence: str | None = field(default=None, compare=False)

    @property
    def basename(self) -> str:
        """The file name without a repository path."""
        return self.file.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeLock:
    """What the compiled operator is made of, and what came out.

    ``source`` is DeepSpeed's sdist; ``toolchain`` the compiler's .debs and wheels; ``build`` the Python wheels
    that the build imports besides those of the image. ``wheel`` is the built wheel (``index`` is ``built``),
    known once it has been built.
    """

    source: Artifact
    toolchain: tuple[Artifact, ...]
    build: tuple[Artifact, ...]
    wheel: Artifact | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLock:
    """What a build of this lock must give: the image's digests and its layers, in order."""

    digest: str
    config: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """``lock.json``: what a machine writes beside a recipe.

    ``recipe`` is the canonical content of the recipe that was resolved (``Recipe.to_dict``). ``resolved`` is the
    date (``YYYY-MM-DD``) after whose end the indexes were not looked at; ``created`` the newest upload time among
    the inputs (RFC 3339, UTC), which becomes the image's. ``debian`` is in the order of installation-independent
    name sort; ``python`` likewise.
    """

    format: int
    ref: Ref
    recipe: dict[str, object]
    resolved: str
    created: str
    debian: tuple[Artifact, ...]
    python: tuple[Artifact, ...]
    native: NativeLock | None
    image: ImageLock | None
