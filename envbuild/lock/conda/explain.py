"""The solver's "no", asked of the channels themselves and turned into one sentence and a cure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.conda.clash import Asked, clash, condensed, declared
from envbuild.lock.conda.solve import Solver, Unsolvable
from envbuild.lock.conda.specs import Spec, holds
from envbuild.lock.conda.versions import cuda_builds, in_order, nearest_conda_versions, python_of
from envbuild.recipe.suggest import did_you_mean, listed

if TYPE_CHECKING:
    from rattler import RepoDataRecord

_VIRTUAL = re.compile(r"(__\w+)(?: ([^,\n]+(?:,[<>=!][^,\n]+)*))?, for which no candidates were found")
_WHERE = {"__glibc": ("conda.glibc", "glibc"), "__cuda": ("cuda.version", "version")}


def explained(asked: Asked, solver: Solver, text: str) -> EnvbuildError:
    """Why there is no answer: exit 3, with the place in the recipe.

    In this order: a package that no channel has, a version or build that none has, one that needs more of the machine
    than the recipe allows, and else the smallest set of specs that do not go together.

    Args:
        asked: what has no answer.
        solver: the way to the channels.
        text: the solver's explanation, for what this finds no better words for.
    """
    bare = replace(asked, question=replace(asked.question, keep=()))
    for spec in bare.specs:
        found = _absent(bare, solver, spec)
        if found is not None:
            return found
    for spec in bare.specs:
        try:
            solver.solve(replace(bare.question, specs=(spec.text,)))
        except Unsolvable as error:
            return _alone(bare, spec, str(error))
    return clash(bare, solver, text)


def _absent(asked: Asked, solver: Solver, spec: Spec) -> EnvbuildError | None:
    """The error about a spec that no record meets, or ``None``."""
    from rattler import MatchSpec

    records = solver.records(asked.question.channels, spec.name)
    channels = asked.channels
    if not records:
        names = solver.names(asked.question.channels)
        if not names:
            return _error(
                asked, "channel-wrong", spec, f"{channels} has no packages at all: what was read is no channel",
                "Name another with --channel NAME=URL|DIR.",
            )  # fmt: skip
        of_python = spec.key.startswith(("python", "deepspeed"))
        may = (
            "An environment may lack what the image has, where that is declared: [conda] without."
            if of_python
            else "Otherwise remove it."
        )
        what = f"{channels} has no package {spec.name}"
        return _error(asked, "no-conda-package", spec, what, f"{did_you_mean(spec.name, names)}{may}")
    wanted = MatchSpec(spec.text)
    meeting = [record for record in records if wanted.matches(record)]
    if not meeting:
        return _no_version(asked, spec, records)
    limit = asked.question.before
    if all(_built(record) > limit for record in meeting):
        first = min(_built(record) for record in meeting)[:10]
        return _error(
            asked, "too-new", spec, f"{channels} built {spec.text} on {first}, after {limit[:10]}",
            f"Lock with --date {first} or later, or pin an older version.",
        )  # fmt: skip
    return None


def _no_version(asked: Asked, spec: Spec, records: Sequence[RepoDataRecord]) -> EnvbuildError:
    """No record has the version, or none of those that have it has the build."""
    python = asked.recipe.python.version
    fitting = [record for record in records if python_of(record) in (None, python)]
    version, _, build = spec.text.partition(" ")[2].partition(" ")
    pinned = version.removeprefix("==").removesuffix(".*")
    same = [record for record in fitting if holds(pinned, str(record.version))]
    if build and same:
        return _no_build(asked, spec, pinned, same, fitting)
    bound = [record for record in records if python_of(record) is not None]
    what = f"{asked.channels} has no {spec.name} {pinned}" + (f" for Python {python}" if bound else "")
    near = nearest_conda_versions(pinned.lstrip("<>=!~ "), [str(item.version) for item in fitting or records])
    hint = f"Nearest: {listed(near)}." if near else "Ask for another package."
    return _error(
        asked, "no-such-version", spec, what, hint + declared(asked, spec, near[0] if near else "…")
    )


def _no_build(
    asked: Asked, spec: Spec, pinned: str, same: Sequence[RepoDataRecord], fitting: Sequence[RepoDataRecord]
) -> EnvbuildError:
    """The version is there, and not for the recipe's CUDA."""
    cuda, python = asked.recipe.cuda.version, asked.recipe.python.version
    built = cuda_builds(same)
    what = f"for CUDA {' and '.join(built)} only" if built else "without CUDA only"
    others = in_order(str(record.version) for record in fitting if cuda in cuda_builds([record]))
    hint = f'Pin [cuda] version = "{built[-1]}"' if built else f"Pin another {spec.name}"
    hint += f"; for CUDA {cuda} there is {spec.name} {', '.join(others[-4:])}" if others else ""
    return _error(
        asked, "conda-unsolvable", spec,
        f"{asked.channels} built {spec.name} {pinned} for Python {python} {what}; the recipe pins CUDA {cuda}",
        f'{hint}; or make no environment of this recipe: makes = ["image"].',
    )  # fmt: skip


def _alone(asked: Asked, spec: Spec, text: str) -> EnvbuildError:
    """The error about a spec that cannot be met even by itself: mostly the machine that the recipe speaks of."""
    for name, wanted in _VIRTUAL.findall(text):
        has = asked.question.virtual.get(name)
        key, word = _WHERE.get(name, (spec.key, ""))
        lower = re.search(r">=?\s*([0-9.]+)", wanted or "")
        message = (
            f"{spec.text} needs {name} {wanted}".rstrip() + f", and the recipe says {has or 'nothing of it'}"
        )
        value = lower.group(1).rstrip(".") if lower else None
        hint = "Ask for another version."
        if word and value:
            table = key.partition(".")[0]
            hint = f'If every machine has that, write {word} = "{value}" in [{table}]; or ask for another version.'
        return _error(asked, "conda-unsolvable", replace(spec, key=key), message, hint)
    return _error(
        asked, "conda-unsolvable", spec, f"{spec.text} cannot be installed even by itself:\n{condensed(text)}",
        "The channel lacks what it depends on: name a whole one with --channel, or ask for another version.",
    )  # fmt: skip


def _error(asked: Asked, id: str, spec: Spec, message: str, hint: str) -> EnvbuildError:
    """The error about one spec; who asks for it is said where the place in the recipe does not show it."""
    indirect = spec.key in ("parts", "deepspeed.version")
    return EnvbuildError(
        id, f"{message} (asked for by {spec.why})" if indirect else message,
        hint=hint, exit=Exit.INPUT, where=asked.recipe.where(spec.key),
    )  # fmt: skip


def _built(record: RepoDataRecord) -> str:
    """When a record was built, in the words of ``before``; at the beginning of time where it does not say."""
    return record.timestamp.strftime("%Y-%m-%dT%H:%M:%SZ") if record.timestamp else ""
