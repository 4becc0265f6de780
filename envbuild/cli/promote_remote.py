"""``envbuild promote REGISTRY/REPO@sha256:…``: the tag in the registry, from the verdict that is attached there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from envbuild.cli.context import Context
from envbuild.cli.keys import own_key, trusted
from envbuild.cli.pulled import Found, find
from envbuild.cli.terms import terms
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import (
    PublicKey,
    SignedVerdict,
    expect,
    promote,
    read_signed,
    require_image,
    subject_of,
)
from envbuild.image.locked import image_of
from envbuild.lock import Lock, asked_recipe, lock_bytes, read_lock
from envbuild.oci.digest import of_bytes
from envbuild.publish.believing import signed_lock_digests, signed_verdicts
from envbuild.publish.making import make_proofs, verdict_proofs
from envbuild.publish.proofs import attach_proofs
from envbuild.publish.tagging import check_tag, give_tag
from envbuild.recipe import list_recipes


def promote_remote(
    context: Context,
    text: str,
    *,
    file: Path | None,
    keys: tuple[Path, ...],
    suites: tuple[str, ...],
    move: bool,
) -> None:
    """Give the image its tag in its registry; no blob is moved.

    Raises:
        EnvbuildError: exit 6: no verdict, or none that allows it, a lock that nobody vouches for, a tag that exists;
            exit 3: the recipe here asks for something else than its lock.
    """
    believed = trusted(context, keys)
    given = read_signed(file, trusted=believed) if file is not None else None
    found = find(context, text)
    lock = _vouched(context, found, believed)
    image = image_of(lock)
    assert image is not None
    subject = subject_of(str(lock.ref), image)
    wanted = terms(lock, expect(asked_recipe(lock, found.pinned), lock), suites)
    if given is not None:
        require_image(given.verdict, found.pinned)
        promote(given.verdict, subject, wanted)
        signed = given
    else:
        signed = _attached(found, lock, believed)
        promote(signed.verdict, subject, wanted)
    tag = lock.ref.tag
    moved_from = check_tag(found.remote, tag, image.digest, move=move)
    progress = context.terminal.progress
    if given is not None:
        attach_proofs(found.remote, found.image.manifest, verdict_proofs(given.data), progress)
    if moved_from is not None:
        moved = make_proofs(
            lock,
            image,
            repository=found.name.repository,
            key=own_key(context),
            verdict=None,
            moved_from=moved_from,
        )
        attach_proofs(found.remote, found.image.manifest, moved, progress)
    give_tag(found.remote, tag, found.image.data, found.image.manifest)
    _print(context, found, lock, signed, moved_from)


def _vouched(context: Context, found: Found, believed: Sequence[PublicKey]) -> Lock:
    """The lock that decides what a verdict must say: one of the recipes here, or the attached one if a key vouches
    for it.

    What is attached to an image anybody may have attached who may write there, and the same image could come with a
    lock whose gate asks for less.
    """
    for recipe in list_recipes(context.settings.recipes):
        own = read_lock(recipe.lock_path) if recipe.makes_image and recipe.lock_path.exists() else None
        if own is not None and own.image is not None and own.image.digest == found.image.digest:
            return context.lock(recipe)  # which must agree with the recipe: its gate may ask for more by now
    lock = found.lock()
    if of_bytes(lock_bytes(lock)) in signed_lock_digests(found.proofs, found.image.digest, believed):
        return lock
    raise EnvbuildError(
        "lock-not-vouched-for",
        f"no recipe here has the image {found.image.digest}, and no trusted key signed a provenance that names the "
        "attached lock",
        where=found.pinned,
        hint="run it where the recipes are (--recipes DIR), or give the publisher's key with --key PEM",
        exit=Exit.GATE,
    )


def _attached(found: Found, lock: Lock, believed: Sequence[PublicKey]) -> SignedVerdict:
    """The newest attached verdict that a trusted key signed."""
    verdicts, refused = signed_verdicts(found.proofs, believed, where=found.pinned)
    if verdicts:
        return max(verdicts, key=lambda item: item.verdict.started)
    told = f": {refused[0].message}" if refused else ""
    raise EnvbuildError(
        "no-verdict",
        f"{found.pinned} ({lock.ref}) has no verdict attached that a trusted key signed{told}",
        where=found.pinned,
        hint=f"on a machine with GPUs run `envbuild smoke {found.pinned} --attach` and `envbuild key show > pub.pem`, "
        "then here give --key pub.pem",
        exit=Exit.GATE,
    )


def _print(context: Context, found: Found, lock: Lock, signed: SignedVerdict, moved_from: str | None) -> None:
    name = f"{found.name.repository}:{lock.ref.tag}"
    verdict = signed.verdict
    context.terminal.data(
        {
            "ref": str(lock.ref),
            "digest": found.image.digest,
            "tags": [name],
            "moved_from": moved_from,
            "verdict": {
                "result": verdict.result,
                "why": verdict.why,
                "path": None,
                "gpus": [gpu.name for gpu in verdict.gpus],
                "driver": verdict.driver,
            },
            "keys": [key.id for key in signed.keys],
        },
        f"{name}  {found.image.digest}",
    )
