"""From a recipe to a conda lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.conda.channels import CondaChannels
from envbuild.lock.conda.check import follows_conda
from envbuild.lock.conda.clash import Asked
from envbuild.lock.conda.explain import explained
from envbuild.lock.conda.frompip import pip_problems, resolve_pip
from envbuild.lock.conda.model import FORMAT, PLATFORM, CondaLock
from envbuild.lock.conda.records import to_record
from envbuild.lock.conda.solve import Question, Solver, Unsolvable
from envbuild.lock.conda.specs import Spec, environment_specs, interpreter_specs, virtual
from envbuild.lock.indexes import Indexes
from envbuild.lock.model import Artifact
from envbuild.progress import Progress
from envbuild.recipe.conda import PINNED
from envbuild.recipe.model import Recipe
from envbuild.recipe.suggest import did_you_mean
from envbuild.store import Http, Store

if TYPE_CHECKING:
    from rattler import RepoDataRecord


def resolve_conda(
    recipe: Recipe,
    *,
    channels: CondaChannels,
    indexes: Indexes,
    http: Http,
    previous: CondaLock | None,
    parent: CondaLock | None = None,
    upgrade: Sequence[str],
    date: str,
    store: Store,
    progress: Progress,
) -> CondaLock:
    """Solve the environment of a recipe, or its interpreter alone where it makes no environment.

    What was locked stays: where neither the recipe nor ``upgrade`` asks for anything else, the previous lock comes back
    as it was, without a look at any channel.

    Args:
        recipe: what a person pinned.
        channels: where this machine finds channels.
        indexes: where it finds Python packages, for what pip brings.
        http: the connections to those.
        previous: the lock that is there.
        parent: the lock of the recipe that this one extends: its packages come before those of ``previous``.
        upgrade: names of conda packages that move, and what must follow.
        date: ``YYYY-MM-DD``; packages that were built after its end (UTC) do not count.
        store: where DeepSpeed's source is kept, and what was read of channels.
        progress: what is going on.

    Raises:
        EnvbuildError: exit 3, no set of packages fits (what clashes is said); exit 4, a channel or Python's index;
            exit 5, something does not verify.
    """
    _check_upgrade(recipe, previous, parent, upgrade)
    if previous is not None and not upgrade and _is_settled(recipe, previous, parent):
        return previous
    before = f"{date}T23:59:59Z"
    pip = resolve_pip(
        recipe, indexes=indexes, http=http, locked=_locked_for_pip(previous, parent, upgrade), before=before,
        store=store, progress=progress,
    )  # fmt: skip
    specs = environment_specs(recipe, pip.needs) if recipe.makes_environment else interpreter_specs(recipe)
    _check_specs(recipe, specs)
    question = Question(
        channels=recipe.conda.channels,
        specs=tuple(spec.text for spec in specs),
        virtual=virtual(recipe),
        before=before,
        keep=tuple(_kept(previous, parent, upgrade)),
    )
    solver = Solver(channels, store.root / "cache" / "conda")
    with progress.task("solve conda packages", unit="packages") as task:
        try:
            answer = solver.solve(question)
        except Unsolvable as error:
            raise explained(
                Asked(recipe=recipe, specs=specs, question=question), solver, str(error)
            ) from None
        task.advance(len(answer.packages))
    lock = CondaLock(
        format=FORMAT, ref=recipe.ref, recipe=recipe.conda_dict(), platform=PLATFORM, channels=answer.channels,
        virtual=question.virtual, exclude_newer=before, specs=question.specs, packages=answer.packages,
        pip=pip.artifacts,
    )  # fmt: skip
    if previous is not None and replace(lock, exclude_newer=previous.exclude_newer) == previous:
        return previous
    return lock


def _is_settled(recipe: Recipe, previous: CondaLock, parent: CondaLock | None) -> bool:
    """Whether the lock is what would be made again."""
    follows = parent is None or not follows_conda(previous, parent)
    return previous.recipe == recipe.conda_dict() and follows and not any(pip_problems(recipe, previous))


def _kept(
    previous: CondaLock | None, parent: CondaLock | None, upgrade: Sequence[str]
) -> list[RepoDataRecord]:
    """The records to stay at: of a name that both locks have, the extended recipe's."""
    found: dict[str, RepoDataRecord] = {}
    for lock in (previous, parent):
        if lock is not None:
            found |= {item.name: to_record(lock, item) for item in lock.packages if item.name not in upgrade}
    return list(found.values())


def _locked_for_pip(
    previous: CondaLock | None, parent: CondaLock | None, upgrade: Sequence[str]
) -> list[Artifact]:
    """What pip was given: of a name that both locks have, the extended recipe's first."""
    locks = [lock for lock in (parent, previous) if lock is not None]
    return [item for lock in locks for item in lock.pip if item.name not in upgrade]


def _check_specs(recipe: Recipe, specs: Sequence[Spec]) -> None:
    """Each must be one that conda understands."""
    from rattler import MatchSpec
    from rattler.exceptions import InvalidMatchSpecError

    for spec in specs:
        try:
            MatchSpec(spec.text)
        except InvalidMatchSpecError as error:
            raise EnvbuildError(
                "wrong-matchspec", f'conda does not understand "{spec.text}": {error}', exit=Exit.INPUT,
                hint='Write a MatchSpec such as "gxx" or "numpy >=2,<3".', where=recipe.where(spec.key),
            ) from None  # fmt: skip


def _names(lock: CondaLock | None) -> set[str]:
    """Of everything that a lock holds."""
    if lock is None:
        return set()
    return {package.name for package in lock.packages} | {item.name for item in lock.pip}


def _check_upgrade(
    recipe: Recipe, previous: CondaLock | None, parent: CondaLock | None, upgrade: Sequence[str]
) -> None:
    """Each name must be locked, not pinned by the recipe, and not taken from the extended recipe's lock."""
    known = _names(previous)
    inherited = _names(parent)
    for name in upgrade:
        if name in PINNED:
            raise EnvbuildError(
                "pinned-by-recipe", f"{name} is pinned by {PINNED[name]}", exit=Exit.INPUT,
                hint=f"Write the version that you want there, then `envbuild lock {recipe.ref}`.",
                where=recipe.where(PINNED[name]),
            )  # fmt: skip
        if name not in known:
            raise EnvbuildError(
                "not-locked", f"{name} is not in the conda lock of {recipe.ref}", exit=Exit.INPUT,
                hint=f"{did_you_mean(name, known)}`envbuild lock {recipe.ref} --upgrade NAME` takes what is locked.",
            )  # fmt: skip
        if parent is not None and name in inherited:
            raise EnvbuildError(
                "locked-by-parent", f"{recipe.ref} takes {name} from the conda lock of {parent.ref}, which it extends",
                hint=f"Run `envbuild lock {parent.ref} --upgrade {name}`, then `envbuild lock {recipe.ref}`.",
                exit=Exit.INPUT, where=recipe.where("extends"),
            )  # fmt: skip
