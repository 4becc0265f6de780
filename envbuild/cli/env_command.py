"""``envbuild env``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from envbuild.cli.context import Context, common
from envbuild.cli.terminal import size
from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock

if TYPE_CHECKING:
    from envbuild.environment import Created


@click.group(name="env", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Conda environments from the lock, without conda."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(int(Exit.USAGE))


@command.command(name="create")
@click.argument("ref")
@click.option(
    "--prefix",
    "-p",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The environment's folder: a new or an empty one.",
)
@click.option(
    "--channel",
    multiple=True,
    metavar="NAME=URL|DIR",
    help="Read the channel from this mirror or folder; may be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Check, and say what would be fetched; fetch and make nothing.")
@common
def create_command(context: Context, ref: str, prefix: Path, channel: tuple[str, ...], dry_run: bool) -> None:
    """Make the conda environment of REF in DIR: exactly the packages of conda.lock.json, then DeepSpeed by pip.

    Every file is checked against the lock. A cut download goes on when the command is run again; where anything
    fails, nothing is left in DIR.
    """
    from envbuild.environment import Means, check_machine, check_path, create, size_to_fetch
    from envbuild.environment.machine import platform_of_machine, virtual_of_machine
    from envbuild.environment.prefix import refuse_taken
    from envbuild.lock import Indexes
    from envbuild.lock.conda.channels import CondaChannels

    lock = _lock(context, ref)
    path = check_path(prefix)
    refuse_taken(path)
    notes = check_machine(lock, virtual_of_machine(), platform_of_machine())
    channels = CondaChannels.from_machine(context.settings.environ, channel)
    store = context.store()
    missing = size_to_fetch(lock, store)
    if dry_run:
        _show(context, lock, path, missing, None, notes)
        return
    means = Means(
        store=store,
        channels=channels,
        indexes=Indexes.from_machine(context.settings.environ),
        jobs=context.settings.jobs,
        progress=context.terminal.progress,
    )
    created = create(lock, path, means)
    _show(context, lock, path, missing, created, notes + created.notes)


def _show(
    context: Context,
    lock: CondaLock,
    path: Path,
    missing: int,
    created: Created | None,
    notes: tuple[str, ...],
) -> None:
    """Print the notes, and what was made or (``created`` is None) would be."""
    for note in notes:
        context.terminal.progress.note(f"note: {note}")
    python = path / "bin" / "python"
    pip = [f"{item.name} {item.version}" for item in lock.pip]
    if created is None:
        text = f"{path}: {len(lock.packages)} packages would be linked, {size(missing)} fetched"
    else:
        text = (
            f"{', '.join([f'{path}: {len(lock.packages)} packages', *pip])}\n"
            f"  conda activate {_quoted(path)}      # with conda or mamba\n"
            f"  {_quoted(python)} train.py          # without"
        )
    value = {
        "ref": str(lock.ref),
        "prefix": str(path),
        "packages": len(lock.packages),
        "pip": pip,
        "made": created is not None,
        "python": str(python),
        "bytes_to_fetch": missing,
        "bytes_fetched": created.bytes_fetched if created else 0,
        "seconds": dict(created.seconds) if created else {},
        "notes": list(notes),
    }
    context.terminal.data(value, text)


def _lock(context: Context, ref: str) -> CondaLock:
    recipe = context.recipe(ref)
    if not recipe.makes_environment:
        raise EnvbuildError(
            "makes-no-environment",
            f"{recipe.ref} makes an image and no conda environment",
            where=recipe.where("makes"),
            hint=f"`envbuild image {recipe.ref}` makes the image; `envbuild list` shows the other recipes",
            exit=Exit.USAGE,
        )
    return context.conda_lock(recipe)


def _quoted(path: Path) -> str:
    text = str(path)
    return (
        text if all(c.isalnum() or c in "/._-+=@" for c in text) else "'" + text.replace("'", "'\\''") + "'"
    )
