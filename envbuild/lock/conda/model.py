"""The conda lock as a value: the packages of an environment or of an interpreter, as their channel serves them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from envbuild.lock.model import Artifact
from envbuild.recipe.model import Ref

FORMAT = 1
"""The conda lock's format number."""

PLATFORM = "linux-64"
"""The one platform that envbuild locks for, in conda's words."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaChannel:
    """A channel's name, and the address that its records name as theirs (``info.base_url``, CEP 15); ends with ``/``.

    The address is never that of a mirror or a folder that the records were read from.
    """

    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaPackage:
    """One locked package: its record in the channel's repodata.

    ``subdir`` is ``linux-64`` or ``noarch``, ``file`` the file's name there, ``channel`` a name in
    ``CondaLock.channels``. ``size`` is in bytes, ``sha256`` 64 and ``md5`` 32 hex digits; ``timestamp`` is when it
    was built, in milliseconds since 1970 (UTC). ``noarch`` is ``python``, ``generic`` or ``None``.
    """

    name: str
    version: str
    build: str
    build_number: int
    subdir: str
    file: str
    size: int
    sha256: str
    channel: str
    md5: str | None = None
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    noarch: str | None = None
    license: str | None = None
    timestamp: int | None = None
    python_site_packages_path: str | None = None
    track_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaLock:
    """``conda.lock.json``: what a machine writes beside a recipe.

    ``recipe`` is what the recipe asked of conda (``Recipe.conda_dict``). ``virtual`` says what the machine was
    supposed to have: a virtual package's name and ``version`` or ``version=build``. ``exclude_newer`` is the time
    (RFC 3339, UTC) after which no package counts. ``specs`` are the MatchSpecs that were asked of the solver.
    ``packages`` are sorted by name. ``pip`` holds, by name, what pip installs
    after the packages where the environment has DeepSpeed: its source, and wheels of what it needs and conda-forge has
    without Python's metadata (ninja).
    """

    format: int
    ref: Ref
    recipe: dict[str, object]
    platform: str
    channels: tuple[CondaChannel, ...]
    virtual: dict[str, str]
    exclude_newer: str
    specs: tuple[str, ...]
    packages: tuple[CondaPackage, ...]
    pip: tuple[Artifact, ...] = field(default=())

    def package(self, name: str) -> CondaPackage:
        """The package of that name.

        Raises:
            KeyError: the lock does not hold it.
        """
        for package in self.packages:
            if package.name == name:
                return package
        raise KeyError(name)

    def url(self, package: CondaPackage) -> str:
        """The package's address in its own channel."""
        base = next(channel.url for channel in self.channels if channel.name == package.channel)
        return f"{base}{package.subdir}/{package.file}"

    def interpreter(self) -> tuple[CondaPackage, ...]:
        """Python and all that it needs, by name."""
        return self.closure("python")

    def closure(self, *names: str) -> tuple[CondaPackage, ...]:
        """The packages of these names and all that they need, by name."""
        by_name = {package.name: package for package in self.packages}
        needed: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in needed or name not in by_name:
                continue
            needed.add(name)
            waiting += dependency_names(by_name[name])
        return tuple(package for package in self.packages if package.name in needed)


def dependency_names(package: CondaPackage) -> Iterator[str]:
    """The names that a package depends on, without virtual packages (which a machine has, and no channel)."""
    for spec in package.depends:
        match = _NAME.match(spec)
        if match and not match.group().startswith("__"):
            yield match.group()
