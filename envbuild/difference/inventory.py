"""What an image, an environment or a lock holds, as one kind of value: packages, and what else it says of the pins."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Ecosystem = Literal["python", "conda", "debian"]
ECOSYSTEMS: tuple[Ecosystem, ...] = ("python", "conda", "debian")
"""In the order in which they are shown, and in which one stands for a name that several have."""

Form = Literal[
    "image lock",
    "Dockerfile",
    "conda lock",
    "image",
    "published image",
    "conda environment",
    "Python environment",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package.

    Args:
        ecosystem: whose package it is.
        name: as the ecosystem spells it; Python's canonical (PEP 503).
        version: likewise; PEP 440, conda's or Debian's.
        build: conda's build string.
        sha256: of the file that it came from (wheel, sdist, .conda, .deb), where that is known: 64 hex digits.
        files: what is installed of it: place → ``sha256=…`` as RECORD spells it, without what installers write
            themselves (:mod:`envbuild.difference.lister`); ``None`` where that is not known.
    """

    ecosystem: Ecosystem
    name: str
    version: str
    build: str | None = None
    sha256: str | None = None
    files: Mapping[str, str] | None = None

    @property
    def content(self) -> str | None:
        """One sha256 (hex) over ``files``: lines of place, space, hash, sorted by place."""
        if self.files is None:
            return None
        lines = "".join(f"{place} {digest}\n" for place, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What a form says of a pin: the value, where it stands, and whose version it is (none: a plain statement)."""

    value: str
    source: str
    ecosystem: Ecosystem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One operand of a comparison.

    Args:
        label: what the caller wrote.
        form: what kind of thing it is.
        ref: the recipe that it is a form of, where that is known.
        packages: in any order; a name may be there in several ecosystems.
        facts: what it says of the pins that no package's version says: ``python``, ``cuda``, ``operators``,
            ``architectures``.
        prefix: the folder, of an environment on this machine.
        digest: an image's: the config's, which every engine knows it by.
        layers: an image's diff_ids, bottom first.
        size: bytes of an image, as its engine counts them.
        blobs: an image's layers as a registry has them: digest → bytes; empty where that is not known.
    """

    label: str
    form: Form
    ref: str | None
    packages: tuple[Package, ...]
    facts: Mapping[str, tuple[Fact, ...]] = field(default_factory=dict)
    prefix: Path | None = None
    digest: str | None = None
    layers: tuple[str, ...] = ()
    size: int | None = None
    blobs: Mapping[str, int] = field(default_factory=dict)

    def of(self, ecosystem: Ecosystem) -> tuple[Package, ...]:
        """The packages of one ecosystem, by name."""
        return tuple(sorted((p for p in self.packages if p.ecosystem == ecosystem), key=lambda p: p.name))

    def package(self, ecosystem: Ecosystem, name: str) -> Package | None:
        """One package, if it is there."""
        return next((p for p in self.packages if p.ecosystem == ecosystem and p.name == name), None)
