"""``envbuild promote``."""

from __future__ import annotations

from pathlib import Path

import click

from envbuild.cli.context import Context, common
from envbuild.cli.docker_named import candidate_of, recipe_of
from envbuild.cli.keys import own_key, trusted
from envbuild.cli.proof import give_tag, verdict_path
from envbuild.gate import Verdict, expect, promote, read_signed, require_image, subject_of, write_verdict
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
@click.option(
    "--key",
    "keys",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PEM",
    help="Believe this public key too: what `envbuild key show` printed where the suite ran (repeatable).",
)
@common
def command(context: Context, ref: str, file: Path, keys: tuple[Path, ...]) -> None:
    """Give the image of REF its tag, if the verdict is a signed pass about exactly this image. Exit 6 if not.

    Believed are this machine's own key, those of --key and those that ENVBUILD_TRUSTED_KEYS names. The copy that the
    store keeps gets this machine's signature too, so that later builds here need no --key.
    """
    signed = read_signed(file, trusted=trusted(context, keys))
    require_image(signed.verdict, ref)
    _refuse_early(context, ref, signed.verdict)
    own = own_key(context)
    ready, _ = candidate_of(context, ref, None)
    proof = give_tag(context, ready, signed.verdict, file)
    write_verdict(verdict_path(ready), signed.accepted_by(own).data)
    digest = ready.subject.manifest
    context.terminal.data(
        {
            "ref": ref,
            "digest": digest,
            "tags": list(proof.tags),
            "verdict": proof.to_dict(),
            "keys": [key.id for key in signed.keys],
        },
        f"{proof.tags[-1]}  {digest}",
    )


def _refuse_early(context: Context, ref: str, verdict: Verdict) -> None:
    """Where the lock names the image's digests, refuse a verdict before anything is fetched or built."""
    if recipe_of(context, ref) is not None:
        return  # Docker alone knows the image
    recipe = context.recipe(ref)
    lock = context.lock(recipe)
    image = image_of(lock)
    if image is not None:
        promote(verdict, subject_of(str(recipe.ref), image), expected=expect(recipe, lock))
