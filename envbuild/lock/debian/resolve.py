"""From a recipe to locked .debs."""

from __future__ import annotations

from dataclasses import dataclass

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.debian.archive import Archive
from envbuild.lock.debian.closure import FIXED, Offer, closure
from envbuild.lock.debian.control import DebPackage
from envbuild.lock.debian.signature import Keyring
from envbuild.lock.debian.version import DebianVersion
from envbuild.lock.indexes import Indexes
from envbuild.lock.model import Artifact
from envbuild.progress import Progress
from envbuild.recipe.model import Recipe
from envbuild.store import Http

TOOLCHAIN = ("nvidia-cuda-toolkit", "trixie", "non-free")
"""Where nvcc of CUDA 12 comes from: a package, a suite, a component. Only this file, not what it depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianResolver:
    """What resolving needs. ``date`` (``YYYY-MM-DD``) is held against the indexes' validity."""

    recipe: Recipe
    indexes: Indexes
    http: Http
    progress: Progress
    date: str

    def base(self) -> tuple[Artifact, ...]:
        """The closure of the base's packages, sorted by name.

        Raises:
            EnvbuildError: exit 2, no mirror, gpgv or keyring; exit 3, an unknown package; 4 and 5, the mirror.
        """
        pins = self.recipe.debian
        suites = [(self._main(), pins.release)]
        if pins.security_updates:
            suites.append((self._security(), f"{pins.release}-security"))
        offered: list[DebPackage] = []
        with self.progress.task("read Debian's indexes", total=len(suites), unit="indexes") as task:
            for archive, suite in suites:
                offered += archive.packages(archive.release(suite, date=self.date), "main")
                task.advance(1)
        asked = {
            name: self.recipe.where(f"debian.packages[{position}]")
            for position, name in enumerate(pins.packages)
        }
        return tuple(
            _artifact(item)
            for item in closure(Offer(offered), [*FIXED, *self.recipe.debian_packages], asked=asked)
        )

    def toolchain(self) -> Artifact:
        """The .deb with nvcc for CUDA 12.

        Raises:
            EnvbuildError: exit 2, 4 or 5 as for :meth:`base`.
        """
        name, suite, component = TOOLCHAIN
        archive = self._main()
        found = [
            item
            for item in archive.packages(archive.release(suite, date=self.date), component)
            if item.name == name
        ]
        if not found:
            raise EnvbuildError(
                "no-such-package", f"Debian's mirror has no {name} in {suite}/{component}",
                hint="Set ENVBUILD_DEBIAN_MIRROR to a full mirror of Debian.", exit=Exit.NETWORK,
            )  # fmt: skip
        return _artifact(max(found, key=lambda item: DebianVersion(item.version)))

    def _main(self) -> Archive:
        return self._archive(self.indexes.debian, "ENVBUILD_DEBIAN_MIRROR")

    def _security(self) -> Archive:
        return self._archive(self.indexes.debian_security, "ENVBUILD_DEBIAN_SECURITY_MIRROR")

    def _archive(self, address: str | None, variable: str) -> Archive:
        if address is None:
            raise EnvbuildError(
                "no-debian-mirror", "no mirror of Debian is known: apt is not here, or its sources name none",
                hint=f"Set {variable} to the address that dists/ and pool/ lie under.", exit=Exit.USAGE,
            )  # fmt: skip
        return Archive(address=address, keyring=Keyring.find(self.indexes.keyring), http=self.http)


def toolchain_from_debian(recipe: Recipe) -> bool:
    """Whether the recipe's operators are compiled by Debian's nvcc (CUDA 12) and not by wheels (CUDA 13)."""
    return recipe.deepspeed is not None and recipe.cuda.major == 12


def _artifact(package: DebPackage) -> Artifact:
    return Artifact(
        kind="deb", name=package.name, version=package.version, file=package.filename, size=package.size,
        sha256=package.sha256, index=f"debian/{package.suite}/{package.component}",
    )  # fmt: skip
