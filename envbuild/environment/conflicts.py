"""Whether the packages of a lock go together in one prefix: no two bring different files under one path."""

from __future__ import annotations

import os
import posixpath
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from envbuild.environment.contents import Brought, Damaged, Hostile, brought, link_targets, twin_of
from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock, CondaPackage
from envbuild.oci.digest import of_file
from envbuild.oci.trees import walk
from envbuild.progress import Progress
from envbuild.store import Store

_LINKS = 40
_SYSTEM = ("/proc/", "/dev/")
"""What links of packages may name outside of the prefix: every machine has its own (``etc/mtab``)."""


def check_packages(
    lock: CondaLock, store: Store, progress: Progress
) -> list[tuple[CondaPackage, list[Brought]]]:
    """Look into every package of the lock, which the store has, before any is linked; gives what each brings.

    The same file may come with several packages. Different ones under one path, which conda warns of
    (``ClobberWarning``) and then links one of, are refused.

    Raises:
        EnvbuildError: exit 3, ``package-conflict``, which names both packages; exit 5, a package that cannot be read,
            or that names a path which no package may have.
    """
    python = next((item for item in lock.packages if item.name == "python"), None)
    tree = _Tree(store=store)
    listed = []
    with progress.task("look into packages", total=len(lock.packages), unit="packages") as task:
        for package in lock.packages:
            file = store.artifact(package.sha256)
            try:
                listed.append((package, brought(package, file, _site(python))))
                tree.add(*listed[-1])
            except Damaged as error:
                raise unreadable(package, store, str(error)) from None
            except Hostile as error:
                raise _hostile(package, str(error)) from None
            task.advance(1)
        tree.check()
    return listed


def check_unpacked(listed: Iterable[tuple[CondaPackage, list[Brought]]], unpacked: Path) -> None:
    """Refuse a package of which a listed file was taken from outside of it, through a link that it does not list.

    Args:
        listed: what each package says that it brings.
        unpacked: the folder of the unpacked packages.

    Raises:
        EnvbuildError: exit 5, ``package-hostile``.
    """
    for package, items in listed:
        folder = unpacked / package.file.removesuffix(".conda").removesuffix(".tar.bz2")
        root, real = str(folder), os.path.realpath(folder)
        links = {path for path, found in walk(root) if stat.S_ISLNK(found.st_mode)}
        for item in items:
            if not links.intersection((item.stored, *_parents(item.stored))) or item.kind == "command":
                continue
            source = item.stored if item.kind == "file" else posixpath.dirname(item.stored)
            if not f"{os.path.realpath(f'{root}/{source}')}/".startswith(f"{real}/"):
                raise _hostile(package, f"{item.stored!r} leads out of the package through a link")


def check_links(prefix: Path, left_out: Path) -> None:
    """Refuse a linked prefix in which a symbolic link leads out of it; ``left_out`` is not looked into.

    Raises:
        EnvbuildError: exit 5, ``package-hostile``.
    """
    root, real = str(prefix), os.path.realpath(prefix)
    for folder, names, files in os.walk(root):
        if folder == root:
            names[:] = [name for name in names if name != left_out.name]
        for name in (*names, *files):
            path = f"{folder}/{name}"
            if not os.path.islink(path):  # noqa: PTH114  # a hundred thousand of them
                continue
            place = os.path.realpath(path)
            if not f"{place}/".startswith((f"{real}/", *_SYSTEM)):
                target = os.readlink(path)  # noqa: PTH115
                raise EnvbuildError(
                    "package-hostile", f"{path[len(root) + 1 :]} is a link to {target!r}, which is not in the prefix",
                    hint="No sound package brings such a link: find it by the path in the channel's index, and take "
                    "another build with `envbuild lock REF --only conda --upgrade NAME`.", exit=Exit.VERIFY,
                )  # fmt: skip


def unreadable(package: CondaPackage, store: Store, reason: str) -> EnvbuildError:
    """The error about a package that cannot be read; the store's copy is removed where it is not the locked file."""
    path = store.artifact(package.sha256)
    if of_file(path) != f"sha256:{package.sha256}":
        path.unlink()
        return EnvbuildError(
            "store-damaged", f"{package.name}: the store's copy of {package.file} was damaged, and is removed",
            hint="Run the same command again: it fetches the file anew.", exit=Exit.VERIFY, where=package.file,
        )  # fmt: skip
    return EnvbuildError(
        "link-failed", f"the environment could not be linked: {package.file}: {reason}", exit=Exit.VERIFY,
        hint="The file is what the lock names. `envbuild lock REF --only conda --upgrade NAME` takes another build of "
        "the package.", where=package.file,
    )  # fmt: skip


def _site(python: CondaPackage | None) -> str:
    """The folder of Python's packages, relative to the prefix."""
    if python is None:
        return "site-packages"
    return (
        python.python_site_packages_path
        or f"lib/python{'.'.join(python.version.split('.')[:2])}/site-packages"
    )


@dataclass(slots=True, kw_only=True)
class _Tree:
    """The prefix as the packages will make it."""

    store: Store
    found: dict[str, tuple[CondaPackage, Brought]] = field(default_factory=dict)
    twins: dict[str, tuple[CondaPackage, str]] = field(default_factory=dict)
    targets: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def add(self, package: CondaPackage, items: list[Brought]) -> None:
        for item in items:
            other, known = self.found.setdefault(item.path, (package, item))
            if known is not item and not self._same(package, item, other, known):
                raise _conflict(item.path, other, package)
            first, path = self.twins.setdefault(twin_of(item.path), (package, item.path))
            if path != item.path:
                raise _conflict(item.path, first, package, "two spellings of one name")

    def _same(self, package: CondaPackage, item: Brought, other: CondaPackage, known: Brought) -> bool:
        if item.kind != known.kind:
            return False
        if item.kind == "link":
            return self._target(package, item) == self._target(other, known)
        return item.kind == "folder" or (item.content is not None and item.content == known.content)

    def _target(self, package: CondaPackage, item: Brought) -> str | None:
        if package.name not in self.targets:
            try:
                self.targets[package.name] = link_targets(package, self.store.artifact(package.sha256))
            except Damaged as error:
                raise unreadable(package, self.store, str(error)) from None
        return self.targets[package.name].get(item.stored)

    def check(self) -> None:
        """Hold every path against the files and links above it."""
        folders: dict[str, CondaPackage] = {}
        for path, (package, _) in self.found.items():
            for folder in _parents(path):
                if folder in folders:
                    break
                folders[folder] = package
        ordered = sorted(self.found)
        for folder in sorted(folders.keys() & self.found.keys()):
            owner, above = self.found[folder]
            if above.kind == "folder":
                continue
            if above.kind != "link":
                raise _conflict(folder, owner, folders[folder], "a file and a folder")
            below = ordered[bisect_left(ordered, f"{folder}/") : bisect_left(ordered, f"{folder}0")]
            self._check_below(folder, owner, above, below)  # "0" follows "/"

    def _check_below(self, folder: str, owner: CondaPackage, link: Brought, below: Iterable[str]) -> None:
        """What is linked below a link is written where the link leads: that must be a folder of the prefix."""
        for path in below:
            package, item = self.found[path]
            place = self._real(path)
            if place is None:
                target = self._target(owner, link)
                raise _hostile(
                    owner,
                    f"{folder} is a link to {target!r}, and {package.file} would be written through it: {path!r}",
                )
            other, known = self.found.get(place, (package, item))
            if known is not item and not self._same(package, item, other, known):
                raise _conflict(place, other, package)

    def _real(self, path: str) -> str | None:
        """Where a path lies once its links are followed; ``None`` outside of the prefix, or in a circle."""
        for _ in range(_LINKS):
            above = [folder for folder in _parents(path) if folder in self.found]
            links = [folder for folder in above if self.found[folder][1].kind == "link"]
            if not links:
                return path
            folder = links[-1]  # the outermost
            package, item = self.found[folder]
            target = self._target(package, item)
            if target is None or target.startswith("/"):
                return None
            path = posixpath.normpath(
                f"{posixpath.dirname(folder)}/{target}{path[len(folder) :]}".lstrip("/")
            )
            if path == ".." or path.startswith("../"):
                return None
        return None


def _parents(path: str) -> Iterator[str]:
    """The folders of ``path``, the innermost first."""
    parent = path.rpartition("/")[0]
    while parent:
        yield parent
        parent = parent.rpartition("/")[0]


def _conflict(
    path: str, one: CondaPackage, other: CondaPackage, what: str = "different files"
) -> EnvbuildError:
    both = one.file if one is other else f"{one.file} and {other.file}"
    return EnvbuildError(
        "package-conflict", f"{both} bring {what} as {path!r}", exit=Exit.INPUT, where=other.file,
        hint=f"`envbuild lock REF --only conda --upgrade {other.name}` takes another build of it, where there is one; "
        "or ask for one of the two packages only.",
    )  # fmt: skip


def _hostile(package: CondaPackage, reason: str) -> EnvbuildError:
    return EnvbuildError(
        "package-hostile", f"{package.file} is not linked: {reason}", exit=Exit.VERIFY, where=package.file,
        hint="No sound package has that. If the channel is the right one, take another build: "
        f"`envbuild lock REF --only conda --upgrade {package.name}`.",
    )  # fmt: skip
