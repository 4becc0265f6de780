"""``envbuild unbundle``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from envbuild.bundle import RECIPES, Delivered, Index, Order, deliver, one_index
from envbuild.cli.context import Context, common
from envbuild.errors import EnvbuildError, Exit
from envbuild.image.locked import image_of
from envbuild.recipe import parse_ref
from envbuild.sandbox import Sandbox


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
@click.option(
    "--have",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="A folder of this machine with files that the bundle counts on (repeatable).",
)
@click.option(
    "--partial", is_flag=True, help="Pieces may be missing: keep what is here, make what can be made."
)
@common
def command(context: Context, folders: tuple[Path, ...], have: tuple[Path, ...], partial: bool) -> None:
    """Take in the bundle in DIR: make every layer of its image again and prove it.

    Afterwards `envbuild run`, `smoke` and `promote` know the image; they use the engines oci and sandbox. The command
    can run again at any time; with --partial the folders of earlier pieces may be gone by then.
    """
    started = time.monotonic()
    index = one_index(folders)
    known = _known_here(context, index)
    order = Order(
        folders=folders,
        have=have,
        name=parse_ref(index.ref).candidate,
        partial=partial,
        jobs=context.settings.jobs,
    )
    store = context.store()
    delivered = deliver(order, store, Sandbox.detect(), context.terminal.progress)
    _print(context, delivered, folders, known=known, seconds=time.monotonic() - started)


def _known_here(context: Context, index: Index) -> bool:
    """Whether this machine's recipes have the bundle's image, built.

    Raises:
        EnvbuildError: exit 5 when they have another one under its name.
    """
    try:
        lock = context.lock(context.recipe(index.ref))
    except EnvbuildError as error:
        if error.exit is not Exit.INPUT:
            raise
        return False
    image = image_of(lock)
    if image is not None and image.digest != index.manifest.digest:
        raise EnvbuildError(
            "bundle-of-another-image",
            f"the bundle is of {index.ref} as {index.manifest.digest}; the recipe here is locked to {image.digest}",
            where=str(context.recipe(index.ref).lock_path),
            hint=f"bring the same recipes here (the bundle has a copy: --recipes DIR/{RECIPES}), or bundle the image "
            "of this lock",
            exit=Exit.VERIFY,
        )
    return image is not None


def _print(
    context: Context, delivered: Delivered, folders: tuple[Path, ...], *, known: bool, seconds: float
) -> None:
    index = delivered.index
    total = len(index.pieces) + 1
    value: dict[str, object] = {
        "ref": index.ref,
        "digest": index.manifest.digest,
        "config": index.config.digest,
        "complete": delivered.complete,
        "layers": {
            "made": list(delivered.made),
            "present": list(delivered.present),
            "waiting": list(delivered.waiting),
        },
        "missing": list(delivered.missing),
        "recipe_known": known,
        "seconds": round(seconds, 3),
    }
    made, present = len(delivered.made), len(delivered.present)
    lines = [
        f"{index.ref}  {index.manifest.digest}",
        f"  {made} layers made and proven, {present} were here, {len(delivered.waiting)} wait; {seconds:.1f} s",
    ]
    if not delivered.complete:
        lines.append(
            f"  {len(delivered.missing)} of {total} files are missing: {', '.join(delivered.missing)}"
        )
    context.terminal.data(value, lines)
    if delivered.complete:
        flag = "" if known else f" --recipes {folders[0] / RECIPES}"
        context.terminal.progress.note(
            f"envbuild smoke{flag} {index.ref} --report verdict.json runs the suite in it"
        )
