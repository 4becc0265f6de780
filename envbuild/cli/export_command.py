"""``envbuild export``."""

from __future__ import annotations

import json
import sys

import click

from envbuild.cli.context import Context, common
from envbuild.lock import requirements_txt


@click.command()
@click.argument("ref")
@click.option(
    "--format",
    "form",
    type=click.Choice(["requirements", "layers"]),
    required=True,
    help="requirements: a hashed requirements.txt; layers: the image's layers as JSON.",
)
@common
def command(context: Context, ref: str, form: str) -> None:
    """Print what is made from the lock of REF at run time."""
    lock = context.lock(context.recipe(ref))
    if form == "requirements":
        sys.stdout.write(requirements_txt(lock))
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
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")
