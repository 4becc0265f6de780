"""``envbuild inventory``."""

from __future__ import annotations

from pathlib import Path

import click

from envbuild.bundle import write_inventory
from envbuild.cli.context import Context, common
from envbuild.cli.files import check_target, replace_file


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Where to.",
)
@common
def command(context: Context, folder: Path, output: Path) -> None:
    """List every file of DIR with its size and hash, for `envbuild bundle --have FILE` on another machine.

    Such a bundle refers to files with the very same content; patches need a copy of the folder itself.
    """
    check_target(output)
    data, count = write_inventory(folder, jobs=context.settings.jobs, progress=context.terminal.progress)
    replace_file(output, data)
    context.terminal.data({"files": count, "output": str(output)}, f"{count} files listed in {output}")
