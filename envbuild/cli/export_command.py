"""``envbuild export``."""

from __future__ import annotations

import json

import click

from envbuild import __version__
from envbuild.cli.context import Context, common
from envbuild.lock import Lock, requirements_txt
from envbuild.oci.digest import canonical_json
from envbuild.recipe import Recipe
from envbuild.render.conda import FILES, conda_export


@click.command()
@click.argument("ref")
@click.option(
    "--format",
    "form",
    type=click.Choice(["requirements", "layers", "sbom", "provenance", *FILES]),
    required=True,
    help="Of an image: requirements (a hashed requirements.txt), layers (JSON), sbom (CycloneDX), provenance (an "
    "in-toto statement, not signed). Of a conda environment: environment (environment.yml), deepspeed (what pip "
    "installs, hashed), explicit (for `conda create --file`), conda-lock.",
)
@common
def command(context: Context, ref: str, form: str) -> None:
    """Print what is made from the lock of REF at run time."""
    recipe = context.recipe(ref)
    if form in FILES:
        context.terminal.file(conda_export(recipe, context.conda_lock(recipe), form))
        return
    lock = context.lock(recipe)
    if form == "requirements":
        context.terminal.file(requirements_txt(lock))
        return
    if form in ("sbom", "provenance"):
        context.terminal.file(_proof(recipe, lock, form))
        return
    layers = lock.image.layers if lock.image else ()
    rows = [
        {
            "name": x.name,
            "digest": x.digest,
            "diff_id": x.diff_id,
            "size": x.size,
            "artifacts": list(x.artifacts),
        }
        for x in layers
    ]
    context.terminal.file(json.dumps(rows, indent=2) + "\n")


def _proof(recipe: Recipe, lock: Lock, form: str) -> str:
    """What `envbuild publish` signs and attaches, as it is before that."""
    if form == "sbom":
        from envbuild.publish.sbom import sbom

        return sbom(lock).decode()
    from envbuild.publish.provenance import exported

    statement = exported(lock, builder_version=__version__, recipe=recipe.path.read_bytes())
    return canonical_json(statement).decode() + "\n"
