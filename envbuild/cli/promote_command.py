"""``envbuild promote``."""

from __future__ import annotations

from pathlib import Path

import click

from envbuild.cli.context import Context, common
from envbuild.cli.docker_named import candidate_of, recipe_of
from envbuild.cli.keys import key_option, own_key, trusted
from envbuild.cli.proof import give_tag, verdict_path
from envbuild.cli.registries import plain_http_option, plainly
from envbuild.cli.terms import suite_option, terms
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import Verdict, expect, promote, read_signed, require_image, subject_of, write_verdict
from envbuild.image.locked import image_of
from envbuild.registry.reference import is_image_name, parse_image_name


@click.command()
@click.argument("ref", metavar="REF|REGISTRY/REPO@sha256:…")
@click.option(
    "--verdict",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What `envbuild smoke --report FILE` wrote on a machine with GPUs [in a registry: the attached one].",
)
@key_option("where the suite ran")
@suite_option
@click.option("--move-tag", is_flag=True, help="In a registry: move a tag that means another image.")
@plain_http_option
@common
def command(
    context: Context,
    ref: str,
    file: Path | None,
    keys: tuple[Path, ...],
    suites: tuple[str, ...],
    move_tag: bool,
    plain_http: bool,
) -> None:
    """Give the image of REF its tag, if the verdict is a signed pass about exactly this image. Exit 6 if not.

    REF is a recipe's name:tag, or REGISTRY/REPO@sha256:… as `envbuild publish --by-digest` printed it: then the tag is
    given in the registry, from the verdict that `envbuild smoke --attach` left there, and no blob is moved.

    The verdict must be of the lock here, by this envbuild's own suite or one that --suite names, and not from the
    future. Believed are this machine's own key, those of --key and those that ENVBUILD_TRUSTED_KEYS names. The copy
    that the store keeps gets this machine's signature too, so that later builds here need no --key.
    """
    if is_image_name(ref):
        from envbuild.cli.promote_remote import promote_remote

        called = plainly(context, parse_image_name(ref).repository) if plain_http else context
        promote_remote(called, ref, file=file, keys=keys, suites=suites, move=move_tag)
        return
    if file is None or move_tag or plain_http:
        raise _usage(ref, file)
    signed = read_signed(file, trusted=trusted(context, keys))
    require_image(signed.verdict, ref)
    _refuse_early(context, ref, signed.verdict, suites)
    own = own_key(context)
    ready, _ = candidate_of(context, ref, None)
    proof = give_tag(context, ready, signed.verdict, file, suites)
    write_verdict(verdict_path(ready), signed.accepted_by(own).data, key=own.public)
    digest = ready.subject.manifest
    context.terminal.data(
        {
            "ref": ref,
            "digest": digest,
            "tags": list(proof.tags),
            "moved_from": None,
            "verdict": proof.to_dict(),
            "keys": [key.id for key in signed.keys],
        },
        f"{proof.tags[-1]}  {digest}",
    )


def _usage(ref: str, file: Path | None) -> EnvbuildError:
    """What a recipe's image takes, and one in a registry does not, or the reverse."""
    if file is None:
        wrong, hint = (
            "--verdict is missing",
            f"`envbuild smoke {ref} --report FILE` makes one, on a machine with GPUs",
        )
    else:
        wrong, hint = "--move-tag and --plain-http are for an image in a registry", "leave them out"
    return EnvbuildError("usage", wrong, hint=hint, exit=Exit.USAGE)


def _refuse_early(context: Context, ref: str, verdict: Verdict, suites: tuple[str, ...]) -> None:
    """Where the lock names the image's digests, refuse a verdict before anything is fetched or built."""
    if recipe_of(context, ref) is not None:
        return  # Docker alone knows the image
    recipe = context.recipe(ref)
    lock = context.lock(recipe)
    image = image_of(lock)
    if image is not None:
        promote(verdict, subject_of(str(recipe.ref), image), terms(lock, expect(recipe, lock), suites))
