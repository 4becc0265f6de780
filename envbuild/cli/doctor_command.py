"""``envbuild doctor``."""

from __future__ import annotations

import click

from envbuild.cli.context import Context, common
from envbuild.doctor import examine


@click.command()
@common
def command(context: Context) -> None:
    """Say what this machine can do: engines, GPUs, driver, shared memory, disk, indexes, and how to get what lacks."""
    report = examine(context.settings.store, context.settings.environ, context.terminal.progress)
    context.terminal.data(report.to_dict(), report.text().split("\n"))
