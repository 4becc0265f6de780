"""``envbuild diff``."""

from __future__ import annotations

from pathlib import Path

import click

from envbuild.cli.context import Context, common
from envbuild.cli.diff_table import diff_text, pins_text
from envbuild.cli.diff_value import diff_value
from envbuild.cli.operands import Reading, read_operands
from envbuild.cli.terminal import Terminal
from envbuild.difference import Difference, FileDifference, Inventory, compare, compare_folders
from envbuild.engine import NAMES
from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe.model import Recipe


@click.command()
@click.argument("operands", nargs=-1, required=True, metavar="A [B [C…]]")
@click.option("--pins", is_flag=True, help="Only the recipe's own pins; exit 5 where a form has others.")
@click.option(
    "--recipe", "ref", metavar="REF", help="Whose pins [default: those of the first operand that has some]."
)
@click.option("--all", "everything", is_flag=True, help="List what agrees, too.")
@click.option("--read-files", is_flag=True, help="Hash every installed file instead of believing RECORD.")
@click.option(
    "--rendered",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where the folder dockerfiles/ is [default: the current folder].",
)
@click.option(
    "--engine", type=click.Choice(NAMES), help="What reads store:… [default: one that has the image]."
)
@common
def command(
    context: Context,
    operands: tuple[str, ...],
    pins: bool,
    ref: str | None,
    everything: bool,
    read_files: bool,
    rendered: Path,
    engine: str | None,
) -> int:
    """Show what forms of a recipe, environments or images differ in.

    An operand is REF (the recipe's image lock), image:REF, dockerfile:REF or conda:REF (one form), docker:NAME or
    store:NAME (an image as it is), REGISTRY/REPO:TAG or REGISTRY/REPO@sha256:… (a published image, whose layers are
    not fetched), or a folder, with a slash (a conda or virtual environment, a site-packages). A single REF stands
    for every form that the recipe makes. Of two images it also says how many bytes a node that has A pulls for B.
    """
    reading = Reading(context=context, engine=engine, rendered=rendered, read_all=read_files)
    inventories = read_operands(reading, operands)
    if len(inventories) == 1 and not pins:
        raise EnvbuildError(
            "one-operand",
            f"{operands[0]} alone differs from nothing",
            hint=f"name something to compare it with: envbuild diff {operands[0]} NAME:TAG",
            exit=Exit.USAGE,
        )
    found = compare(inventories, _recipe(context, ref, inventories))
    files = None if pins else _files(context, inventories)
    refusal = _refusal(found) if pins else None
    value = diff_value(found, files, pins_only=pins)
    if refusal is not None:
        value["error"] = refusal.to_dict()
    context.terminal.data(value, pins_text(found) if pins else diff_text(found, files, everything=everything))
    if refusal is None:
        return int(Exit.DONE)
    Terminal(json=False, quiet=True).error(refusal)  # the one JSON document holds it already
    return int(refusal.exit)


def _recipe(context: Context, ref: str | None, inventories: list[Inventory]) -> Recipe | None:
    """Whose pins count: the named recipe's, else the first operand's that is a form of one known here."""
    if ref is not None:
        return context.recipe(ref)
    for inventory in inventories:
        if inventory.ref is not None:
            try:
                return context.recipe(inventory.ref)
            except EnvbuildError as error:
                if error.id not in ("no-recipe", "wrong-reference"):
                    raise
    return None


def _files(context: Context, inventories: list[Inventory]) -> tuple[FileDifference, ...] | None:
    """The files of two environments of this machine."""
    folders = [inventory.prefix for inventory in inventories]
    if len(folders) != 2 or folders[0] is None or folders[1] is None:
        return None
    return compare_folders(folders[0], folders[1], context.terminal.progress)


def _refusal(found: Difference) -> EnvbuildError | None:
    if found.pins_agree:
        return None
    lines = [
        f"{pin.name} of {inventory.label}: {cell.why}"
        for pin in found.pins
        for cell, inventory in zip(pin.cells, found.operands, strict=True)
        if cell.status == "differ"
    ]
    ref = found.recipe.ref if found.recipe else "REF"
    return EnvbuildError(
        "pins-differ",
        "the forms do not agree:\n  " + "\n  ".join(lines),
        where=str(found.recipe.path) if found.recipe else None,
        hint=f"make them again from the recipe: `envbuild lock {ref}`, `envbuild render {ref}`; what conda "
        "cannot give, declare under [conda.versions] or [conda] without",
        exit=Exit.VERIFY,
    )
