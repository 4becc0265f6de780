"""``envbuild render``."""

from __future__ import annotations

from pathlib import Path

import click

from envbuild.cli.context import Context, common
from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe import list_recipes
from envbuild.render import check, write


@click.command()
@click.argument("ref", required=False)
@click.option("--check", "check_only", is_flag=True, help="Write nothing; exit 3 and show what differs.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where dockerfiles/ and the files of conda environments go [default: here].",
)
@common
def command(context: Context, ref: str | None, check_only: bool, output: Path) -> None:
    """Write dockerfiles/ and conda's files from the recipe REF and its locks (all recipes without REF)."""
    recipes = [context.recipe(ref)] if ref else list_recipes(context.settings.recipes)
    inputs = [
        (recipe, context.lock(recipe) if recipe.makes_image else None, context.conda_lock(recipe))
        for recipe in recipes
    ]
    if check_only:
        differences = [line for given in inputs for line in check(*given, output)]
        if differences:
            raise EnvbuildError(
                "rendering-differs",
                "files are not what recipe and locks give:\n" + "\n".join(differences),
                where=str(output.resolve()),
                hint=f"run `envbuild render{f' {ref}' if ref else ''}`",
                exit=Exit.INPUT,
            )
        context.terminal.data({"agrees": True, "refs": [str(r.ref) for r in recipes]}, "every file agrees")
        return
    changed = [path for given in inputs for path in write(*given, output)]
    context.terminal.data({"changed": changed}, changed or "nothing changed")
