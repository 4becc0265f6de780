"""From a recipe to a lock."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from packaging.utils import canonicalize_name

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.debian.resolve import DebianResolver, toolchain_from_debian
from envbuild.lock.indexes import Indexes
from envbuild.lock.model import FORMAT, Artifact, Lock, NativeLock
from envbuild.lock.python.resolve import PythonPart, PythonResolver
from envbuild.progress import Progress
from envbuild.recipe.model import Recipe
from envbuild.recipe.suggest import did_you_mean
from envbuild.store import Http, Store

DEBIAN = "debian"
"""As a name to upgrade: all Debian packages."""


def resolve(
    recipe: Recipe,
    *,
    indexes: Indexes,
    http: Http,
    previous: Lock | None,
    upgrade: Sequence[str],
    date: str,
    store: Store,
    progress: Progress,
) -> Lock:
    """Resolve a recipe.

    What was locked stays: where neither the recipe nor a name in ``upgrade`` asks for anything else, the previous
    lock comes back as it was, without a look at any index. Debian's packages move together, since a release is
    consistent only as a whole. When an input changes, the digests of what was built from it go.

    Args:
        recipe: what a person pinned.
        indexes: where this machine finds packages.
        http: the connections; made from ``indexes.environ``, so that pip's and apt's settings count.
        previous: the lock that is there.
        upgrade: names that move, and what must follow; ``debian`` or any Debian package's name moves all of those.
        date: ``YYYY-MM-DD``; uploads after its end (UTC) do not count.
        store: where DeepSpeed's source is kept: its requirements are read from it.
        progress: what is going on.

    Raises:
        EnvbuildError: exit 3, the recipe cannot be met; exit 4, an index; exit 5, something does not verify;
            exit 2, this machine lacks a mirror, gpgv or a keyring.
    """
    work = _Work(recipe=recipe, previous=previous, upgrade=_names(recipe, previous, upgrade))
    if previous is not None and previous.recipe == recipe.to_dict() and not work.upgrade:
        return previous
    resolver = DebianResolver(recipe=recipe, indexes=indexes, http=http, progress=progress, date=date)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="debian") as pool:
        debian = pool.submit(work.debian, resolver)
        python = work.kept_python()
        if python is None:
            python = PythonResolver(
                recipe=recipe, indexes=indexes, http=http, store=store, progress=progress,
                before=f"{date}T23:59:59Z", upgrade=work.upgrade,
                keep=work.versions(), keep_build=work.build_versions(),
            ).run()  # fmt: skip
        base, compiler = debian.result()
    return work.lock(python, base, compiler, date)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What may stay of the previous lock, and the new one made of the parts."""

    recipe: Recipe
    previous: Lock | None
    upgrade: tuple[str, ...]

    def debian(self, resolver: DebianResolver) -> tuple[tuple[Artifact, ...], Artifact | None]:
        """The base's packages, and the compiler where it comes from Debian: kept, or resolved."""
        base = self.kept_debian() or resolver.base()
        if not toolchain_from_debian(self.recipe):
            return base, None
        return base, self.kept_compiler() or resolver.toolchain()

    def kept_python(self) -> PythonPart | None:
        """The previous Python part, where nothing that decides it has changed."""
        lock = self.previous
        tables = ("python", "torch", "cuda", "deepspeed")
        if (
            lock is None
            or not self._same(*tables)
            or any(name not in self._debian_names() for name in self.upgrade)
        ):
            return None
        native = lock.native
        return PythonPart(
            image=lock.python, source=native.source if native else None,
            toolchain=tuple(item for item in native.toolchain if item.kind == "wheel") if native else (),
            build=native.build if native else (),
        )  # fmt: skip

    def kept_debian(self) -> tuple[Artifact, ...] | None:
        """The previous Debian packages, where nothing that decides them has changed."""
        if (
            self.previous is None
            or not self._same("debian")
            or self._debian_names().intersection(self.upgrade)
        ):
            return None
        return self.previous.debian

    def kept_compiler(self) -> Artifact | None:
        """The previous .deb with the compiler, unless Debian's packages move."""
        if (
            self.previous is None
            or self.previous.native is None
            or self._debian_names().intersection(self.upgrade)
        ):
            return None
        return next((item for item in self.previous.native.toolchain if item.kind == "deb"), None)

    def versions(self) -> dict[str, str]:
        """The Python versions to stay at."""
        if self.previous is None:
            return {}
        tools = self.previous.native.toolchain if self.previous.native else ()
        return {item.name: item.version for item in (*tools, *self.previous.python) if item.kind == "wheel"}

    def build_versions(self) -> dict[str, str]:
        """The versions of the operator's build to stay at."""
        native = self.previous.native if self.previous else None
        return {item.name: item.version for item in native.build} if native else {}

    def lock(
        self, python: PythonPart, debian: tuple[Artifact, ...], compiler: Artifact | None, date: str
    ) -> Lock:
        """The new lock; the previous one's bytes where the parts turn out the same."""
        native = None
        if python.source is not None:
            toolchain = (*((compiler,) if compiler else ()), *python.toolchain)
            native = NativeLock(
                source=python.source, toolchain=tuple(sorted(toolchain, key=lambda item: item.name)),
                build=python.build, wheel=None,
            )  # fmt: skip
        lock = Lock(
            format=FORMAT, ref=self.recipe.ref, recipe=self.recipe.to_dict(), resolved=date,
            created=_created(python, date), debian=debian, python=python.image, native=native, image=None,
        )  # fmt: skip
        old = self.previous
        if old is None:
            return lock
        if native and old.native and self._same("deepspeed", "cuda") and _same_operator(old, lock):
            native = replace(native, wheel=old.native.wheel)
        if not _same_inputs(old, lock):
            return replace(lock, native=native)
        if old.recipe == lock.recipe:
            return old
        return replace(lock, resolved=old.resolved, created=old.created, native=native)

    def _same(self, *tables: str) -> bool:
        assert self.previous is not None
        mine = self.recipe.to_dict()
        return all(mine.get(table) == self.previous.recipe.get(table) for table in tables)

    def _debian_names(self) -> set[str]:
        assert self.previous is not None
        native = self.previous.native
        further = native.toolchain if native else ()
        return {DEBIAN, *(item.name for item in (*self.previous.debian, *further) if item.kind == "deb")}


def _same_inputs(old: Lock, new: Lock) -> bool:
    return (old.debian, old.python, _unbuilt(old)) == (new.debian, new.python, _unbuilt(new))


def _same_operator(old: Lock, new: Lock) -> bool:
    """Whether the compiled operator has the same inputs: itself, the base, torch and the CUDA libraries."""

    def torch(lock: Lock) -> list[Artifact]:
        return [
            item for item in lock.python if item.name == "torch" or item.name.startswith(("nvidia-", "cuda-"))
        ]

    return (old.debian, torch(old), _unbuilt(old)) == (new.debian, torch(new), _unbuilt(new))


def _unbuilt(lock: Lock) -> NativeLock | None:
    return replace(lock.native, wheel=None) if lock.native else None


def _created(python: PythonPart, date: str) -> str:
    """The newest upload among what is in the image or compiled into it."""
    files = (*python.image, *((python.source,) if python.source else ()), *python.toolchain, *python.build)
    times = [item.uploaded for item in files if item.uploaded is not None]
    return max(times) if times else f"{date}T00:00:00Z"


def _names(recipe: Recipe, previous: Lock | None, upgrade: Sequence[str]) -> tuple[str, ...]:
    """The names to upgrade, canonical; each must be locked and not pinned by the recipe."""
    if not upgrade:
        return ()
    if previous is None:
        raise EnvbuildError(
            "nothing-to-upgrade", f"{recipe.ref} has no lock yet, so nothing in it can be upgraded",
            hint=f"Write it first: `envbuild lock {recipe.ref}`.", exit=Exit.INPUT,
        )  # fmt: skip
    native = (*previous.native.toolchain, *previous.native.build) if previous.native else ()
    known = {DEBIAN, *(item.name for item in (*previous.debian, *previous.python, *native))}
    pinned = {"torch": "torch.version", "torchvision": "torch.torchvision", "deepspeed": "deepspeed.version"}
    names = []
    for text in upgrade:
        name = text if text in known else canonicalize_name(text)
        if name in pinned:
            raise EnvbuildError(
                "pinned-by-recipe", f"{name} is pinned by {pinned[name]}", exit=Exit.INPUT,
                hint=f"Write the version that you want there, then `envbuild lock {recipe.ref}`.",
                where=recipe.where(pinned[name]),
            )  # fmt: skip
        if name not in known:
            raise EnvbuildError(
                "not-locked", f"{text} is not in the lock of {recipe.ref}", exit=Exit.INPUT,
                hint=f"{did_you_mean(name, known)}`debian` moves all Debian packages.",
            )  # fmt: skip
        names.append(name)
    return tuple(names)
