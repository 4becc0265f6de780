"""What pip brings into a conda environment: DeepSpeed's source, and what conda-forge has without Python's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envbuild.lock.conda.model import CondaLock
from envbuild.lock.conda.specs import FROM_PIP, pip_requirements
from envbuild.lock.indexes import Indexes
from envbuild.lock.model import Artifact
from envbuild.lock.python.resolve import PythonResolver
from envbuild.lock.python.source import deepspeed_source
from envbuild.lock.python.standin import BUILT_REQUIREMENTS, requirements_of
from envbuild.progress import Progress
from envbuild.recipe.conda import spec_name
from envbuild.recipe.model import Recipe
from envbuild.store import Http, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class PipPart:
    """What pip is given, by name, and what DeepSpeed needs (PEP 508): both empty without DeepSpeed."""

    artifacts: tuple[Artifact, ...] = ()
    needs: tuple[str, ...] = ()


def resolve_pip(
    recipe: Recipe,
    *,
    indexes: Indexes,
    http: Http,
    locked: Sequence[Artifact],
    before: str,
    store: Store,
    progress: Progress,
) -> PipPart:
    """DeepSpeed's source, and wheels of what it needs and conda does not bring.

    Args:
        recipe: what a person pinned.
        indexes: where this machine finds Python packages.
        http: the connections to them.
        locked: what stays where it fits, those that come first before the others.
        before: the RFC 3339 time after which uploads do not count.
        store: where DeepSpeed's source is kept.
        progress: what is going on.

    Raises:
        EnvbuildError: exit 3, there is no such version; exit 4, the index; exit 5, another file than it says.
    """
    if recipe.deepspeed is None or not recipe.makes_environment:
        return PipPart()
    source = deepspeed_source(
        recipe, indexes.python, http=http, store=store, progress=progress, before=before
    )
    needs = requirements_of(store.artifact(source.sha256), name=source.name, version=source.version)
    needs += BUILT_REQUIREMENTS
    wanted = pip_requirements(recipe, needs)
    kept = _kept(wanted, locked)
    missing = [text for text in wanted if _name(text) not in kept]
    found = [next((item for item in locked if item.sha256 == source.sha256), source), *kept.values()]
    if missing:
        resolver = PythonResolver(
            recipe=recipe, indexes=indexes, http=http, store=store, progress=progress, before=before, keep={},
            keep_build={}, upgrade=(),
        )  # fmt: skip
        found += resolver.alone(missing, glibc=int(recipe.conda.glibc.partition(".")[2]))
    return PipPart(artifacts=tuple(sorted(found, key=lambda item: item.name)), needs=tuple(needs))


def pip_problems(recipe: Recipe, lock: CondaLock) -> Iterator[str]:
    """Where the lock's pip part is not what the recipe asks for, one a line."""
    if not recipe.makes_environment:
        return
    held = {item.name: item.version for item in lock.pip}
    pinned = recipe.deepspeed.version if recipe.deepspeed else None
    if held.get("deepspeed") != pinned:
        yield f"deepspeed: the recipe has {pinned or 'none'}, the lock holds {held.get('deepspeed') or 'none'}"
    if pinned is None:
        return
    for text in lock.specs:
        if spec_name(text) in FROM_PIP:
            yield f"{text}: asked of conda, but pip brings it with DeepSpeed"
    for text in pip_requirements(recipe, ()):
        version = held.get(_name(text))
        if version is None or not Requirement(text).specifier.contains(version, prereleases=True):
            yield f"{text}: the recipe asks for it, the lock holds {version or 'none'} for pip"


def _kept(wanted: Sequence[str], locked: Sequence[Artifact]) -> dict[str, Artifact]:
    """Of what was locked the artifacts that meet every requirement on their name."""
    found: dict[str, Artifact] = {}
    for item in locked:
        asked = [Requirement(text) for text in wanted if _name(text) == item.name]
        if asked and all(need.specifier.contains(item.version, prereleases=True) for need in asked):
            found.setdefault(item.name, item)
    return found


def _name(text: str) -> str:
    return str(canonicalize_name(Requirement(text).name))
