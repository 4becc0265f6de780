"""The solver's "no", asked of the channels themselves and turned into one sentence and a cure."""

from __future__ import annotations

from dataclasses import dataclass

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.conda.solve import Question, Solver
from envbuild.lock.conda.specs import Spec
from envbuild.recipe.model import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A recipe, what it asks for, and the question that has no answer."""

    recipe: Recipe
    specs: tuple[Spec, ...]
    question: Question


def explained(asked: Asked, solver: Solver, text: str) -> EnvbuildError:
    """Why there is no answer: exit 3, with the place in the recipe."""
    return EnvbuildError("conda-unsolvable", text, hint="-", exit=Exit.INPUT)
