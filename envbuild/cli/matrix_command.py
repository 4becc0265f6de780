"""``envbuild matrix``."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import click

from envbuild.cli.context import Context, common
from envbuild.cli.terminal import size
from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import Lock, check, check_conda, read_conda_lock, read_lock
from envbuild.recipe import list_recipes
from envbuild.recipe.changed import changed_since
from envbuild.recipe.model import Recipe, Ref
from envbuild.recipe.parts import DEVEL
from envbuild.recipe.suggest import did_you_mean

STANDARD, LARGE = "standard", "large"
_STANDARD_DISK = 14 * 10**9
"""Free bytes of the disk of a runner that GitHub lends."""
_UNPACKED = 4
"""How many times a .deb's, or a compiler's, size its unpacked files take."""
_HEAD = ("REF", "IMAGE", "LOCK", "DEVEL", "GPUS", "RUNNER", "FETCH", "DISK", "NEEDS")


@click.command()
@click.argument("patterns", nargs=-1, metavar="[REF]...")
@click.option(
    "--changed-since",
    "commit",
    metavar="COMMIT",
    help="Only recipes whose recipe.toml or lock.json, or those of what they extend, git sees changed since then.",
)
@common
def command(context: Context, patterns: tuple[str, ...], commit: str | None) -> None:
    """Print what CI has to build: one entry for each recipe that makes an image.

    REF is name:tag or name; * and ? stand for any text and any character. With --json it is what GitHub's
    strategy.matrix takes as it is.
    """
    rows = [_row(recipe) for recipe in _selected(context, patterns, commit)]
    context.terminal.data({"include": rows}, _table(rows))


def _selected(context: Context, patterns: Sequence[str], commit: str | None) -> list[Recipe]:
    """The recipes that are asked for, each behind the one that it extends.

    Raises:
        EnvbuildError: exit 3: a pattern that no recipe with an image matches; exit 2: git cannot tell what changed.
    """
    folders = context.settings.recipes
    known = [recipe for recipe in list_recipes(folders) if recipe.makes_image]
    for pattern in patterns:
        if not any(_matches(recipe, pattern) for recipe in known):
            names = [str(recipe.ref) for recipe in known]
            raise EnvbuildError(
                "no-recipe",
                f"no recipe that makes an image matches {pattern!r}",
                hint=f"{did_you_mean(pattern, names)}`envbuild matrix` shows all of them",
                exit=Exit.INPUT,
            )
    found = [
        recipe for recipe in known if not patterns or any(_matches(recipe, pattern) for pattern in patterns)
    ]
    if commit is not None:
        found = changed_since(commit, found, folders, context.settings.environ)
    return _parents_first(found)


def _matches(recipe: Recipe, pattern: str) -> bool:
    return fnmatchcase(str(recipe.ref), pattern) or fnmatchcase(recipe.ref.name, pattern)


def _parents_first(recipes: Sequence[Recipe]) -> list[Recipe]:
    by_ref = {recipe.ref: recipe for recipe in recipes}
    ordered: dict[Ref, Recipe] = {}

    def place(recipe: Recipe) -> None:
        if recipe.parent is not None and recipe.parent in by_ref:
            place(by_ref[recipe.parent])
        ordered.setdefault(recipe.ref, recipe)

    for recipe in recipes:
        place(recipe)
    return list(ordered.values())


def _row(recipe: Recipe) -> dict[str, Any]:
    state, lock = _lock(recipe)
    needed = _disk(lock) if lock else None
    return {
        "ref": str(recipe.ref),
        "name": recipe.ref.name,
        "tag": recipe.ref.tag,
        "digest": lock.image.digest if lock and lock.image and state == "ok" else None,
        "lock": state,
        "conda_lock": _conda_lock(recipe),
        "environment": recipe.makes_environment,
        "devel": any(part.name == DEVEL for part in recipe.parts),
        "gpus": recipe.gate.gpus,
        "runner": LARGE if needed is not None and needed > _STANDARD_DISK else STANDARD,
        "fetch": _fetch(lock) if lock else None,
        "disk": needed,
        "needs": str(recipe.parent) if recipe.parent else None,
    }


def _lock(recipe: Recipe) -> tuple[str, Lock | None]:
    if not recipe.lock_path.exists():
        return "missing", None
    lock = read_lock(recipe.lock_path)
    return ("stale" if check(recipe, lock) else "ok"), lock


def _conda_lock(recipe: Recipe) -> str:
    if not recipe.conda_lock_path.exists():
        return "missing"
    return "stale" if check_conda(recipe, read_conda_lock(recipe.conda_lock_path)) else "ok"


def _fetch(lock: Lock) -> int:
    """Bytes of all inputs: what a runner brings that has nothing and finds nothing in a layer cache."""
    native = lock.native
    compiled = (native.source, *native.toolchain, *native.build) if native else ()
    return sum({a.sha256: a.size for a in (*lock.debian, *lock.python, *compiled)}.values())


def _disk(lock: Lock) -> int:
    """Roughly what a build from nothing fills: the inputs, the layers, and what is unpacked to compile in it."""
    layers = lock.image.layers if lock.image else (*lock.python, *lock.debian)
    unpacked = (*lock.debian, *(lock.native.toolchain if lock.native else ()))
    return _fetch(lock) + sum(layer.size for layer in layers) + _UNPACKED * sum(a.size for a in unpacked)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """The entries for people; without any, a line that says so."""
    if not rows:
        return "nothing to build"
    lines = [_HEAD] + [
        (
            row["ref"],
            row["digest"][:19] if row["digest"] else "-",
            row["lock"],
            "yes" if row["devel"] else "no",
            str(row["gpus"]),
            row["runner"],
            size(row["fetch"]) if row["fetch"] is not None else "-",
            size(row["disk"]) if row["disk"] is not None else "-",
            row["needs"] or "-",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
