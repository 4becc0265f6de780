"""``envbuild publish``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envbuild.cli.build import build
from envbuild.cli.context import Context, common
from envbuild.cli.keys import key_option, own_key, trusted
from envbuild.cli.registries import CACHE, REGISTRY, configured, plain_http_option, plainly, remote_of
from envbuild.cli.terminal import size
from envbuild.cli.terms import suite_option, terms
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import SignedVerdict, expect, promote, read_signed, require_image, subject_of
from envbuild.image.locked import image_of
from envbuild.lock import Lock
from envbuild.lock.licences import artifacts_of
from envbuild.oci.digest import Digest
from envbuild.oci.image import Image
from envbuild.recipe import Recipe

if TYPE_CHECKING:
    from envbuild.publish.publish import Published
    from envbuild.registry.reference import Repository
    from envbuild.registry.remote import Remote


@click.command()
@click.argument("ref")
@click.argument("target", metavar="REGISTRY/REPO")
@click.option(
    "--verdict",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The signed verdict about the image [default: the one that the store has].",
)
@key_option("where the suite ran")
@suite_option
@click.option(
    "--by-digest", is_flag=True, help="Give no tag: push image and proofs, and let `envbuild promote` tag it."
)
@click.option("--allow-unverified", is_flag=True, help="Without a passing verdict give TAG-candidate.")
@click.option("--move-tag", is_flag=True, help="Move a tag that means another image; the provenance says so.")
@click.option(
    "--mount-from",
    multiple=True,
    metavar="REPO",
    help="Another repository of this registry that may have the layers (repeatable); so may the layer cache.",
)
@plain_http_option
@common
def command(
    context: Context,
    ref: str,
    target: str,
    file: Path | None,
    keys: tuple[Path, ...],
    suites: tuple[str, ...],
    by_digest: bool,
    allow_unverified: bool,
    move_tag: bool,
    mount_from: tuple[str, ...],
    plain_http: bool,
) -> None:
    """Push the image of REF to REGISTRY/REPO with its lock, SBOM, provenance and verdict; then give it its tag.

    The tag needs a signed, passing verdict about exactly this image: exit 6 without. What the registry has is not sent
    again, and nothing is made that it has; a wheel layer that it lacks is streamed from the wheel. Tags do not move
    unless --move-tag says so.
    """
    from envbuild.registry.reference import parse_neighbour, parse_repository

    started = time.monotonic()
    if by_digest and (allow_unverified or move_tag):
        raise EnvbuildError(
            "options-contradict",
            "--by-digest gives no tag, and --allow-unverified and --move-tag say which one",
            hint="leave out one of them",
            exit=Exit.USAGE,
        )
    repository = parse_repository(target)
    mount_from = tuple(parse_neighbour(text, repository) for text in mount_from)
    if plain_http:
        context = plainly(context, repository)
    recipe, lock, image = _built(context, ref)
    signed = _verdict(context, recipe, lock, image, file, keys, suites)
    tag = None if by_digest else _tag(recipe, image, signed, repository, allow_unverified)
    done = _publish(context, lock, image, signed, repository, tag, move_tag, mount_from)
    _print(context, recipe, repository, image, signed, done, round(time.monotonic() - started, 3))


def _built(context: Context, ref: str) -> tuple[Recipe, Lock, Image]:
    """The image that the lock names; one that was never built is built first."""
    recipe = context.recipe(ref)
    lock = context.lock(recipe)
    image = image_of(lock)
    if image is None:
        ready = build(context, ref)
        recipe, lock, image = ready.recipe, ready.lock, ready.built.image
    return recipe, lock, image


def _verdict(
    context: Context,
    recipe: Recipe,
    lock: Lock,
    image: Image,
    file: Path | None,
    keys: tuple[Path, ...],
    suites: tuple[str, ...],
) -> SignedVerdict | None:
    """The verdict of ``--verdict``, which must hold; else the store's, where it has one that holds."""
    believed = trusted(context, keys)
    subject, wanted = subject_of(str(recipe.ref), image), terms(lock, expect(recipe, lock), suites)
    if file is not None:
        signed = read_signed(file, trusted=believed)
        require_image(signed.verdict, str(recipe.ref))
        promote(signed.verdict, subject, wanted)
        return signed
    kept = context.store().root / "verdicts" / f"{Digest(image.digest).hex}.json"
    if not kept.exists():
        return None
    try:
        signed = read_signed(kept, trusted=believed)
        promote(signed.verdict, subject, wanted)
    except EnvbuildError as refusal:
        if refusal.exit is not Exit.GATE:
            raise
        context.terminal.progress.note(f"the verdict in the store is not used: {refusal.message}")
        return None
    return signed


def _tag(
    recipe: Recipe,
    image: Image,
    signed: SignedVerdict | None,
    repository: Repository,
    allow_unverified: bool,
) -> str:
    """The tag that the image may have."""
    if signed is not None:
        return recipe.ref.tag
    if allow_unverified:
        return recipe.ref.candidate.rpartition(":")[2]
    ref = recipe.ref
    raise EnvbuildError(
        "no-verdict",
        f"{ref} ({image.digest}) has no passing verdict here, so it gets no tag",
        where=str(ref),
        hint=f"give it with --verdict FILE --key PEM; or `envbuild publish {ref} {repository} --by-digest`, on a "
        f"machine with GPUs `envbuild smoke {repository}@{image.digest} --attach`, then `envbuild promote` there; "
        "--allow-unverified gives the candidate's name only",
        exit=Exit.GATE,
    )


def _publish(
    context: Context,
    lock: Lock,
    image: Image,
    signed: SignedVerdict | None,
    repository: Repository,
    tag: str | None,
    move: bool,
    mount_from: tuple[str, ...],
) -> Published:
    from envbuild.publish.making import make_proofs
    from envbuild.publish.publish import Order, publish

    key = own_key(context)
    unknown = sum(artifact.licence is None for artifact in artifacts_of(lock))
    if unknown:
        context.terminal.progress.note(
            f"the lock knows no licence of {unknown} packages, so the SBOM names none of theirs: they are read where "
            f"the packages are, by `envbuild image {lock.ref}`"
        )
    verdict = signed.data if signed is not None else None
    order = Order(
        lock=lock,
        image=image,
        remote=remote_of(context, repository),
        tag=tag,
        move=move,
        others=_others(context, repository, mount_from),
        proofs=lambda moved_from: make_proofs(
            lock, image, repository=repository, key=key, verdict=verdict, moved_from=moved_from
        ),
    )
    return publish(order, context.workshop(lock, context.store()))


def _others(context: Context, repository: Repository, named: tuple[str, ...]) -> list[Remote]:
    """The repositories of the same registry whose layers may be mounted: those of --mount-from, and the layer cache."""
    from envbuild.registry.reference import parse_repository

    found = [parse_repository(f"{repository.registry}/{name}") for name in named]
    for variable in (CACHE, REGISTRY):
        remote = configured(context, variable)
        if remote is not None and remote.name.registry == repository.registry:
            found.append(remote.name)
    return [remote_of(context, name) for name in dict.fromkeys(found) if name != repository]


def _print(
    context: Context,
    recipe: Recipe,
    repository: Repository,
    image: Image,
    signed: SignedVerdict | None,
    done: Published,
    total: float,
) -> None:
    name = f"{repository}:{done.tag}" if done.tag else f"{repository}@{done.digest}"
    how = {layer.name: done.sent[layer.digest] for layer in image.layers if layer.digest in done.sent}
    value: dict[str, object] = {
        "ref": str(recipe.ref),
        "repository": str(repository),
        "digest": done.digest,
        "tag": done.tag,
        "candidate": signed is None,
        "moved_from": done.moved_from,
        "size": sum(layer.size for layer in image.layers),
        "layers": [
            {
                "name": layer.name,
                "digest": layer.digest,
                "size": layer.size,
                "how": how[layer.name].how if layer.name in how else "present",
                "bytes_sent": how[layer.name].bytes if layer.name in how else 0,
            }
            for layer in image.layers
        ],
        "made": list(done.made),
        "bytes_sent": done.bytes_sent,
        "bytes_fetched": done.bytes_fetched,
        "proofs": list(done.proofs),
        "verdict": [gpu.name for gpu in signed.verdict.gpus] if signed is not None else None,
        "seconds": {**done.seconds, "total": total},
    }
    sent = sum(item.how == "uploaded" for item in how.values())
    lines = [
        f"{name}  {done.digest}",
        f"  {len(image.layers)} layers: sent {sent} ({size(done.bytes_sent)}), fetched {size(done.bytes_fetched)}; "
        f"{len(done.proofs)} proofs attached; {total:.1f} s",
    ]
    if done.moved_from is not None:
        lines.append(f"  the tag was moved from {done.moved_from}")
    context.terminal.data(value, lines)
    if signed is None:
        context.terminal.progress.note(
            f"no passing verdict is attached: on a machine with GPUs run "
            f"`envbuild smoke {repository}@{done.digest} --attach`, then `envbuild promote {repository}@{done.digest}`"
        )
