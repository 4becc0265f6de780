"""A comparison for people: the operands, the recipe's pins, then packages, then files."""

from __future__ import annotations

import string
import textwrap
from collections.abc import Sequence

from envbuild.cli.terminal import size
from envbuild.difference import (
    ECOSYSTEMS,
    Cell,
    Difference,
    FileDifference,
    Inventory,
    Package,
    Pin,
    Row,
    pull_between,
)

_WIDTH = 110
_FILES = 20
"""How many files of a package, or of an environment, are named; the JSON has all of them."""


def diff_text(found: Difference, files: tuple[FileDifference, ...] | None, *, everything: bool) -> list[str]:
    """Everything. ``stdout`` is for data, so it is plain text without colours."""
    parts = [*_head(found), *_pins(found), *_packages(found, everything)]
    if files is not None:
        parts += _files(files)
    return parts


def pins_text(found: Difference) -> list[str]:
    """The operands and the pins."""
    return [*_head(found), *_pins(found)]


def _head(found: Difference) -> list[str]:
    letters = _letters(len(found.operands))
    rows = [
        (letter, inventory.label, inventory.form, _holds(inventory))
        for letter, inventory in zip(letters, found.operands, strict=True)
    ]
    return [*_table(rows), *_layers(found.operands, letters)]


def _layers(operands: Sequence[Inventory], letters: Sequence[str]) -> list[str]:
    """How many layers the images share: with the same layers there is nothing to differ."""
    images = [(letter, i.layers) for letter, i in zip(letters, operands, strict=True) if i.layers]
    if len(images) < 2:
        return []
    shared = set.intersection(*(set(layers) for _, layers in images))
    counts = " and ".join(f"{len(layers)} of {letter}" for letter, layers in images)
    same = len({layers for _, layers in images}) == 1
    told = ["", f"{'All' if same else len(shared)} layers are the same ({counts})"]
    pull = pull_between(operands)
    if pull is not None:
        told.append(
            f"A node that has A pulls {pull.layers} of {pull.of} layers for B: {size(pull.bytes)} of {size(pull.total)}"
        )
    return told


def _holds(inventory: Inventory) -> str:
    counts = [f"{len(inventory.of(e))} {e}" for e in ECOSYSTEMS if inventory.of(e)]
    layers = [f"{len(inventory.layers)} layers"] if inventory.layers else []
    bytes_ = [size(inventory.size)] if inventory.size else []
    return ", ".join([*counts, *layers, *bytes_]) or "nothing"


def _pins(found: Difference) -> list[str]:
    if not found.pins:
        return []
    letters = _letters(len(found.operands))
    whose = f"Pins of {found.recipe.ref}" if found.recipe else "Pins"
    head = ("PIN", *(["RECIPE"] if found.recipe else []), *letters, "")
    rows = [head]
    for pin in found.pins:
        recipe = [pin.recipe or "-"] if found.recipe else []
        rows.append((pin.name, *recipe, *(_cell(cell) for cell in pin.cells), _verdict(pin)))
    notes = [
        f"  {pin.name}, {letter}: {cell.why}"
        for pin in found.pins
        for letter, cell in zip(letters, pin.cells, strict=True)
        if cell.why and cell.status in ("differ", "declared")
    ]
    return ["", whose, *_table(rows), *notes]


def _cell(cell: Cell) -> str:
    return " / ".join(cell.values) or {"not compiled": "at first use", "unknown": "?"}.get(cell.status, "-")


def _verdict(pin: Pin) -> str:
    if not pin.agrees:
        return "differ"
    return "declared" if any(cell.status == "declared" for cell in pin.cells) else "agree"


def _packages(found: Difference, everything: bool) -> list[str]:
    letters = _letters(len(found.operands))
    several = [row for row in found.rows if sum(p is not None for p in row.packages) > 1]
    differing = [row for row in several if set(row.differs) - {"missing"}]
    agreeing = [row for row in several if not set(row.differs) - {"missing"}]
    known = sum(bool({"artifact", "files", "build"} & set(row.compared)) for row in agreeing)
    told = f"{len(agreeing)} packages agree in version ({known} of them in content, too); {len(differing)} differ"
    parts = ["", told]
    if differing:
        head = ("PACKAGE", *letters, "")
        parts += _table([head, *((row.name, *map(_version, row.packages), _what(row)) for row in differing)])
    for row in differing:
        if row.files:
            parts += _listed(f"  {row.name}: {len(row.files)} files: ", row.files)
    if everything and agreeing:
        parts += ["", "The same"]
        parts += _table(
            [(row.name, *map(_version, row.packages), " ".join(row.compared)) for row in agreeing]
        )
    return [*parts, *_missing(found, letters)]


def _missing(found: Difference, letters: Sequence[str]) -> list[str]:
    """What is not everywhere, by where it is and by ecosystem."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in found.missing:
        where = " and ".join(letter for letter, p in zip(letters, row.packages, strict=True) if p is not None)
        package = next(p for p in row.packages if p is not None)
        groups.setdefault((where, package.ecosystem), []).append(f"{package.name} {package.version}")
    order = sorted(groups, key=lambda key: (key[0], ECOSYSTEMS.index(key[1])))
    parts: list[str] = []
    for where, ecosystem in order:
        names = groups[where, ecosystem]
        parts += [
            "",
            f"Only in {where}: {len(names)} of {ecosystem}",
            *_listed("  ", names, limit=len(names)),
        ]
    return parts


def _version(package: Package | None) -> str:
    return package.version if package is not None else "-"


def _what(row: Row) -> str:
    """In what they differ; of builds and files of one name which ones."""
    told = [what for what in row.differs if what != "missing"]
    if told == ["build"] or (told and "build" in told):
        return " ".join(told) + ": " + " / ".join(p.build or "-" for p in row.packages if p is not None)
    if "artifact" in told:
        return (
            " ".join(told) + ": " + " / ".join((p.sha256 or "-")[:12] for p in row.packages if p is not None)
        )
    return " ".join(told)


def _files(files: tuple[FileDifference, ...]) -> list[str]:
    expected = [item for item in files if item.expected is not None]
    others = [item for item in files if item.expected is None]
    parts = ["", f"Files: {len(others)} differ, and {len(expected)} as expected"]
    parts += _table([("", item.path, item.what, _hashes(item)) for item in others[:_FILES]])
    if len(others) > _FILES:
        parts.append(f"  … and {len(others) - _FILES} more: --json lists them")
    for why in dict.fromkeys(item.expected for item in expected):
        paths = [item.path for item in expected if item.expected == why]
        parts.append(
            f"  expected: {paths[0]}" + (f" and {len(paths) - 1} more" if paths[1:] else "") + f" ({why})"
        )
    return parts


def _hashes(item: FileDifference) -> str:
    return " / ".join(digest[:12] if digest else "-" for digest in item.hashes) if any(item.hashes) else ""


def _listed(start: str, words: Sequence[str], *, limit: int = _FILES) -> list[str]:
    more = [f"and {len(words) - limit} more"] if len(words) > limit else []
    text = start + ", ".join([*words[:limit], *more])
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _letters(count: int) -> list[str]:
    return [string.ascii_uppercase[number] if number < 26 else f"#{number + 1}" for number in range(count)]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
