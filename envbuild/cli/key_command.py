"""``envbuild key``."""

from __future__ import annotations

import click

from envbuild.cli.context import Context, common
from envbuild.cli.keys import own_key, trusted


@click.command()
@click.argument("what", type=click.Choice(["show", "list"]), default="show")
@common
def command(context: Context, what: str) -> None:
    """Print the public key that verdicts are signed with here (show), or the keys that are trusted (list).

    The key is made on first use. Give it to whoever promotes: `envbuild key show > pub.pem` here, `envbuild promote
    REF --verdict FILE --key pub.pem` there.
    """
    if what == "list":
        rows = [{"id": key.id, "public_key": key.pem} for key in trusted(context)]
        text = (
            "\n".join(row["id"] for row in rows) or "none yet: `envbuild key show` makes this machine's own"
        )
        context.terminal.data(rows, text)
        return
    key = own_key(context)
    context.terminal.progress.note(f"id {key.public.id}, from {key.where}")
    value = {"id": key.public.id, "public_key": key.public.pem, "where": key.where}
    context.terminal.data(value, key.public.pem.rstrip("\n"))
