"""``envbuild verdict``."""

from __future__ import annotations

from pathlib import Path

import click

from envbuild.cli.context import Context, common
from envbuild.cli.files import check_target, replace_file
from envbuild.cli.keys import key_option, trusted
from envbuild.cli.verdict_table import verdict_table
from envbuild.gate import read_signed
from envbuild.smoke.fingerprint import fingerprint


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write it as a page to HTML.")
@key_option("where the suite ran")
@common
def command(context: Context, file: Path, html: Path | None, keys: tuple[Path, ...]) -> None:
    """Check who signed the verdict in FILE and show what it says; nothing is run or tagged.

    A verdict that cannot be believed is not shown: exit 6.
    """
    check_target(html)
    signed = read_signed(file, trusted=trusted(context, keys))
    if html is not None:
        from envbuild.gate.page import page

        replace_file(html, page(signed.verdict, signed.keys).encode())
    ids = [key.id for key in signed.keys]
    suite = signed.verdict.suite
    own = "" if suite == fingerprint() else " (not this envbuild's: `envbuild promote` takes it by --suite)"
    lines = [*verdict_table(signed.verdict), f"suite: {suite}{own}", f"signed by: {', '.join(ids)}"]
    lines += [f"page: {html}"] if html else []
    context.terminal.data(
        {
            "path": str(file),
            "html": str(html) if html else None,
            "keys": ids,
            "verdict": signed.verdict.to_dict(),
        },
        lines,
    )
