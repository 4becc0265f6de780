"""``envbuild list``."""

from __future__ import annotations

import click

from envbuild.cli.context import Context, common
from envbuild.lock import check, read_lock
from envbuild.recipe import list_recipes
from envbuild.recipe.model import Recipe


@click.command()
@common
def command(context: Context) -> None:
    """Show every recipe with its pins and whether it is locked and built."""
    rows = [_row(recipe) for recipe in list_recipes(context.settings.recipes)]
    head = ("REF", "TORCH", "CUDA", "CUDNN", "NCCL", "DEEPSPEED", "LOCK", "IMAGE")
    table = [head] + [
        tuple(str(row[key.lower()] or "-") for key in head[:-1])
        + ((str(row["image"])[:19] if row["image"] else "-"),)
        for row in rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )
    context.terminal.data(rows, text)


def _row(recipe: Recipe) -> dict[str, str | None]:
    state, image = "missing", None
    if recipe.lock_path.exists():
        lock = read_lock(recipe.lock_path)
        state = "stale" if check(recipe, lock) else "ok"
        image = lock.image.digest if lock.image else None
    return {
        "ref": str(recipe.ref),
        "path": str(recipe.path),
        "description": recipe.description,
        "torch": recipe.torch.version,
        "cuda": recipe.cuda.version,
        "cudnn": recipe.cuda.cudnn,
        "nccl": recipe.cuda.nccl,
        "deepspeed": recipe.deepspeed.version if recipe.deepspeed else None,
        "lock": state,
        "image": image,
    }
