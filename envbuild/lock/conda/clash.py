"""Which pins do not go together in one environment, and what one of them would have to be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.conda.solve import Question, Solver, Unsolvable
from envbuild.lock.conda.specs import Spec
from envbuild.lock.conda.versions import nearest_conda_versions
from envbuild.recipe.model import Recipe

_MAY_DIFFER = {"cuda.cudnn": "cudnn", "cuda.nccl": "nccl", "torch.torchvision": "torchvision"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A recipe, what it asks for, and the question that has no answer."""

    recipe: Recipe
    specs: tuple[Spec, ...]
    question: Question

    @property
    def channels(self) -> str:
        """The channels' names, for a message."""
        return " or ".join(self.question.channels)

    def only(self, specs: Sequence[Spec]) -> Question:
        """The same question about fewer specs."""
        return replace(self.question, specs=tuple(spec.text for spec in specs))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """What every record of one spec asks of another, and the versions that would meet it."""

    needs: Spec
    needed: Spec
    asks: tuple[str, ...]
    suiting: tuple[str, ...]


def clash(asked: Asked, solver: Solver, text: str) -> EnvbuildError:
    """The error about the smallest set of specs that has no answer: exit 3.

    Args:
        asked: specs of which each can be met alone.
        solver: the way to the channels.
        text: the solver's explanation of them all.
    """
    clashing = _smallest(asked, solver)
    if not clashing:  # they go together, so what was kept of the lock before did not
        return EnvbuildError(
            "conda-unsolvable", f"no set of packages fits what is locked:\n{condensed(text)}", exit=Exit.INPUT,
            hint=f"Delete {asked.recipe.conda_lock_path.name} and lock again: nothing is kept then.",
            where=str(asked.recipe.conda_lock_path),
        )  # fmt: skip
    needs = (_need(asked, solver, one, other) for one in clashing for other in clashing if one is not other)
    need = next((item for item in needs if item is not None), None)
    who = " and ".join(f"{spec.why} ({_line(asked, spec)})" for spec in clashing)
    if need is None:
        reason = condensed(_said(asked, solver, clashing) or text)
        keys = dict.fromkeys(spec.key for spec in clashing)
        hint = f"Change one of {', '.join(keys)}."
    else:
        reason = f"{asked.channels}'s {_named(need.needs)} needs {' or '.join(need.asks)}"
        hint = _cure(asked, need)
    return EnvbuildError(
        "conda-unsolvable", f"{who} do not go together: {reason}", hint=hint, exit=Exit.INPUT,
        where=asked.recipe.where((need.needed if need else clashing[-1]).key),
    )  # fmt: skip


def declared(asked: Asked, spec: Spec, version: str) -> str:
    """The sentence about declaring a difference, where the spec is a pin that may differ."""
    name = _MAY_DIFFER.get(spec.key)
    if name is None and spec.key.startswith("python.packages") and "==" in spec.text:
        name = spec.name
    if name is None or not asked.recipe.makes_image:
        return ""
    return f' An environment may differ from the image where that is declared: [conda.versions] {name} = "{version}".'


def condensed(text: str, limit: int = 16) -> str:
    """The solver's tree without its first words: at most ``limit`` lines."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(re.sub(r"^Cannot solve the request because of: ", "", line) for line in lines[:limit])


def _smallest(asked: Asked, solver: Solver) -> list[Spec]:
    """A set of specs that has no answer, and of which none can be left out; none where all go together.

    The last ones are tried first, so that what stands at the top of a recipe stays.
    """
    if solver.fits(asked.question):
        return []
    left = list(asked.specs)
    for spec in reversed(asked.specs):
        fewer = [item for item in left if item is not spec]
        if fewer and not solver.fits(asked.only(fewer)):
            left = fewer
    return left


def _need(asked: Asked, solver: Solver, needs: Spec, needed: Spec) -> _Need | None:
    """What the one asks of the other, where nothing of the other that is asked for gives it."""
    from rattler import MatchSpec

    channels = asked.question.channels
    wanted, given = MatchSpec(needs.text), MatchSpec(needed.text)
    mine = [record for record in solver.records(channels, needs.name) if wanted.matches(record)]
    others = solver.records(channels, needed.name)
    asks: dict[str, None] = {}
    suiting: dict[str, None] = {}
    for record in mine:
        texts = [text for text in (*record.depends, *record.constrains) if _name(text) == needed.name]
        meeting = [other for other in others if all(MatchSpec(text).matches(other) for text in texts)]
        if not texts or any(given.matches(other) for other in meeting):
            return None
        asks |= dict.fromkeys(texts)
        suiting |= dict.fromkeys(str(other.version) for other in meeting)
    if not asks:
        return None
    return _Need(needs=needs, needed=needed, asks=tuple(asks), suiting=tuple(suiting))


def _cure(asked: Asked, need: _Need) -> str:
    near = nearest_conda_versions(_version(need.needed), need.suiting, limit=1)
    key = need.needed.key
    if not near:
        return f"Change {need.needs.key} or {key}."
    return f"Nearest that fits: {need.needed.name} {near[0]} ({key}).{declared(asked, need.needed, near[0])}"


def _said(asked: Asked, solver: Solver, specs: Sequence[Spec]) -> str:
    """The solver's own words about these specs."""
    try:
        solver.solve(asked.only(specs))
    except Unsolvable as error:
        return str(error)
    return ""


def _line(asked: Asked, spec: Spec) -> str:
    """The key with its line, without folders."""
    return f"{spec.key}, {Path(asked.recipe.where(spec.key)).name}"


def _named(spec: Spec) -> str:
    """``pytorch 2.7.1 cuda126*``."""
    return f"{spec.name} {_version(spec)} {spec.text.partition(' ')[2].partition(' ')[2]}".strip()


def _version(spec: Spec) -> str:
    return spec.text.partition(" ")[2].partition(" ")[0].removeprefix("==").removesuffix(".*")


def _name(text: str) -> str:
    return re.split(r"[ \[<>=!~]", text, maxsplit=1)[0]
