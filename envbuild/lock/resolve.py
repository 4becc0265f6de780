"""From a recipe to a lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from packaging.utils import canonicalize_name

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.compare import debian_request, follows, python_request
from envbuild.lock.debian.resolve import DebianResolver, toolchain_from_debian
from envbuild.lock.indexes import Indexes
from envbuild.lock.licences import known_licences, with_licences
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
    parent: Lock | None = None,
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
        parent: the lock of the recipe that this one extends: its versions come before those of ``previous``.
        upgrade: names that move, and what must follow; ``debian`` or any Debian package's name moves all of those.
        date: ``YYYY-MM-DD``; uploads after its end (UTC) do not count.
        store: where DeepSpeed's source is kept: its requirements are read from it.
        progress: what is going on.

    Raises:
        EnvbuildError: exit 3, the recipe cannot be met; exit 4, an index; exit 5, something does not verify;
            exit 2, this machine lacks a mirror, gpgv or a keyring.
    """
    work = _Work(
        recipe=recipe, previous=previous, parent=parent, upgrade=_names(recipe, previous, parent, upgrade)
    )
    if previous is not None and work.is_settled(previous):
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
    parent: Lock | None
    upgrade: tuple[str, ...]

    def is_settled(self, previous: Lock) -> bool:
        """Whether nothing asks for anything else than the previous lock holds."""
        follows_parent = self.parent is None or not follows(previous, self.parent)
        return previous.recipe == self.recipe.to_dict() and not self.upgrade and follows_parent

    def debian(self, resolver: DebianResolver) -> tuple[tuple[Artifact, ...], Artifact | None]:
        """The base's packages, and the compiler where it comes from Debian: kept, or resolved."""
        base = self.kept_debian() or resolver.base()
        if not toolchain_from_debian(self.recipe):
            return base, None
        return base, self.kept_compiler() or resolver.toolchain()

    def kept_python(self) -> PythonPart | None:
        """The Python part of the extended recipe's lock or of the previous one, where it asked for the same."""
        lock = self._like(python_request)
        if lock is None or any(name not in self._debian_names() for name in self.upgrade):
            return None
        native = lock.native
        return PythonPart(
            image=lock.python, source=native.source if native else None,
            toolchain=tuple(item for item in native.toolchain if item.kind == "wheel") if native else (),
            build=native.build if native else (),
        )  # fmt: skip

    def kept_debian(self) -> tuple[Artifact, ...] | None:
        """The Debian packages of the extended recipe's lock or of the previous one, where it asked for the same."""
        lock = self._like(debian_request)
        return None if lock is None or self._debian_moves() else lock.debian

    def kept_compiler(self) -> Artifact | None:
        """The .deb with the compiler of the extended recipe's lock or the previous one, unless Debian's move."""
        tools = [
            item
            for lock in self._before()
            if lock.native
            for item in lock.native.toolchain
            if item.kind == "deb"
        ]
        return tools[-1] if tools and not self._debian_moves() else None

    def versions(self) -> dict[str, str]:
        """The Python versions to stay at."""
        found: dict[str, str] = {}
        for lock in self._before():
            tools = lock.native.toolchain if lock.native else ()
            found |= {item.name: item.version for item in (*tools, *lock.python) if item.kind == "wheel"}
        return found

    def build_versions(self) -> dict[str, str]:
        """The versions of the operator's build to stay at."""
        natives = [lock.native for lock in self._before() if lock.native]
        return {item.name: item.version for native in natives for item in native.build}

    def _before(self) -> list[Lock]:
        """The locks to stay near to; of two that know a name the later one decides."""
        return [lock for lock in (self.previous, self.parent) if lock is not None]

    def _like(self, request: Callable[[Mapping[str, object]], object]) -> Lock | None:
        """The nearest lock whose recipe made the same request: the extended recipe's first."""
        asked = request(self.recipe.to_dict())
        found = [lock for lock in self._before() if request(lock.recipe) == asked]
        if (
            self.parent is not None
            and found
            and found[-1] is not self.parent
            and follows(found[-1], self.parent)
        ):
            return None
        return found[-1] if found else None

    def _debian_moves(self) -> bool:
        return bool(self._debian_names().intersection(self.upgrade))

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
        lock = with_licences(lock, known_licences(self._before()))
        native = lock.native
        same = [old.native for old in self._before() if old.native and _same_operator(old, lock)]
        if native and same:
            native = replace(native, wheel=same[-1].wheel)
        old = self.previous
        if old is None or not _same_inputs(old, lock):
            return replace(lock, native=native)
        if old.recipe == lock.recipe:
            return old
        return replace(lock, resolved=old.resolved, created=old.created, native=native)

    def _debian_names(self) -> set[str]:
        if self.previous is None:
            return set()
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

    if any(old.recipe.get(table) != new.recipe.get(table) for table in ("deepspeed", "cuda")):
        return False
    return (old.debian, torch(old), _unbuilt(old)) == (new.debian, torch(new), _unbuilt(new))


def _unbuilt(lock: Lock) -> NativeLock | None:
    return replace(lock.native, wheel=None) if lock.native else None


def _created(python: PythonPart, date: str) -> str:
    """The newest upload among what is in the image or compiled into it."""
    files = (*python.image, *((python.source,) if python.source else ()), *python.toolchain, *python.build)
    times = [item.uploaded for item in files if item.uploaded is not None]
    return max(times) if times else f"{date}T00:00:00Z"


def _names(
    recipe: Recipe, previous: Lock | None, parent: Lock | None, upgrade: Sequence[str]
) -> tuple[str, ...]:
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
        if parent is not None and name in {DEBIAN, *(item.name for item in (*parent.debian, *parent.python))}:
            raise EnvbuildError(
                "locked-by-parent", f"{recipe.ref} takes {name} from the lock of {parent.ref}, which it extends",
                hint=f"Run `envbuild lock {parent.ref} --upgrade {text}`, then `envbuild lock {recipe.ref}`.",
                exit=Exit.INPUT, where=recipe.where("extends"),
            )  # fmt: skip
        names.append(name)
    return tuple(names)
