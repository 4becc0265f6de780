"""``envbuild list``."""

from __future__ import annotations

from typing import Any

import click

from envbuild.cli.context import Context, common
from envbuild.lock import check, check_conda, read_conda_lock, read_lock
from envbuild.recipe import list_recipes
from envbuild.recipe.model import Recipe


@click.command()
@common
def command(context: Context) -> None:
    """Show every recipe with its pins and whether it is locked and built."""
    rows = [_row(recipe) for recipe in list_recipes(context.settings.recipes)]
    keys = ("ref", "torch", "cuda", "cudnn", "nccl", "deepspeed", "lock", "conda_lock", "image")
    head = ("REF", "TORCH", "CUDA", "CUDNN", "NCCL", "DEEPSPEED", "LOCK", "CONDA", "IMAGE")
    table = [head] + [tuple(str(row[key] or "-") for key in keys[:-1]) + (_short(row),) for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    context.terminal.data(rows, lines)


def _short(row: dict[str, Any]) -> str:
    """The image as the table shows it; a recipe that makes none says so."""
    if "image" not in row["makes"]:
        return "(environment)"
    return str(row["image"])[:19] if row["image"] else "-"


def _row(recipe: Recipe) -> dict[str, Any]:
    state, image = ("missing" if recipe.makes_image else None), None
    if recipe.makes_image and recipe.lock_path.exists():
        lock = read_lock(recipe.lock_path)
        state = "stale" if check(recipe, lock) else "ok"
        image = lock.image.digest if lock.image else None
    return {
        "ref": str(recipe.ref),
        "path": str(recipe.path),
        "description": recipe.description,
        "makes": list(recipe.makes),
        "torch": recipe.torch.version,
        "cuda": recipe.cuda.version,
        "cudnn": recipe.cuda.cudnn,
        "nccl": recipe.cuda.nccl,
        "deepspeed": recipe.deepspeed.version if recipe.deepspeed else None,
        "lock": state,
        "conda_lock": _conda_state(recipe),
        "image": image,
    }


def _conda_state(recipe: Recipe) -> str:
    if not recipe.conda_lock_path.exists():
        return "missing"
    return "stale" if check_conda(recipe, read_conda_lock(recipe.conda_lock_path)) else "ok"
