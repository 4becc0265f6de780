"""``envbuild promote``."""

from __future__ import annotations

from pathlib import Path

import click

from envbuild.cli.build import build
from envbuild.cli.context import Context, common
from envbuild.cli.proof import give_tag, verdict_path
from envbuild.gate import Verdict, expect, promote, read_verdict, subject_of, write_verdict
from envbuild.image.locked import image_of


@click.command()
@click.argument("ref")
@click.option(
    "--verdict",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="What `envbuild smoke --report FILE` wrote on a machine with GPUs.",
)
@common
def command(context: Context, ref: str, file: Path) -> None:
    """Give the image of REF its tag, if the verdict is a pass about exactly this image. Exit 6 if not."""
    verdict = read_verdict(file)
    _refuse_early(context, ref, verdict)
    ready = build(context, ref)
    proof = give_tag(context, ready, verdict, file)
    write_verdict(verdict_path(ready), verdict)
    image = ready.built.image
    context.terminal.data(
        {"ref": ref, "digest": image.digest, "tags": list(proof.tags), "verdict": proof.to_dict()},
        f"{proof.tags[-1]}  {image.digest}",
    )


def _refuse_early(context: Context, ref: str, verdict: Verdict) -> None:
    """Where the lock names the image's digests, refuse a verdict before anything is fetched or built."""
    recipe = context.recipe(ref)
    lock = context.lock(recipe)
    image = image_of(lock)
    if image is not None:
        promote(verdict, subject_of(str(recipe.ref), image), expected=expect(recipe, lock))
