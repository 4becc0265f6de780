"""Two or more inventories side by side: which package is where, and in what it differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from envbuild.difference.inventory import ECOSYSTEMS, Ecosystem, Inventory, Package
from envbuild.difference.names import common_name, same_version
from envbuild.difference.pins import Pin, compare_pins
from envbuild.recipe.model import Recipe

What = Literal["version", "build", "artifact", "files", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing, as each operand has it (``None``: it does not).

    Args:
        name: what it is called.
        packages: one for each operand.
        differs: in what those that have it differ; ``missing`` where one lacks it. Empty: they agree.
        compared: what could be compared: always ``version``; ``build``, ``artifact`` (the locked file's sha256) and
            ``files`` (what is installed) only between operands that both know it, and of one ecosystem.
        files: the places whose content differs, or which only one has; of ``differs`` with ``files``.
    """

    name: str
    packages: tuple[Package | None, ...]
    differs: tuple[What, ...]
    compared: tuple[What, ...]
    files: tuple[str, ...] = ()

    @property
    def everywhere(self) -> bool:
        """Whether every operand has it."""
        return None not in self.packages


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What :func:`compare` found: the operands, the recipe's pins, and every package."""

    operands: tuple[Inventory, ...]
    recipe: Recipe | None
    pins: tuple[Pin, ...]
    rows: tuple[Row, ...]

    @property
    def pins_agree(self) -> bool:
        """Whether no pin differs in a way that the recipe does not declare."""
        return all(pin.agrees for pin in self.pins)

    @property
    def differing(self) -> tuple[Row, ...]:
        """The packages that two operands have and in which they differ."""
        return tuple(row for row in self.rows if set(row.differs) - {"missing"})

    @property
    def missing(self) -> tuple[Row, ...]:
        """The packages that an operand lacks."""
        return tuple(row for row in self.rows if "missing" in row.differs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """What a node that has the first of two images fetches for the second: ``layers`` of ``of``, and bytes of all."""

    layers: int
    of: int
    bytes: int
    total: int


def pull_between(operands: Sequence[Inventory]) -> Pull | None:
    """The layers that a registry's client fetches, where two images are compared whose blobs are known.

    It fetches whole layers, by digest; a node that reads lazily fetches less.
    """
    if len(operands) != 2 or not all(inventory.blobs for inventory in operands):
        return None
    have, want = operands[0].blobs, operands[1].blobs
    new = {digest: size for digest, size in want.items() if digest not in have}
    return Pull(layers=len(new), of=len(want), bytes=sum(new.values()), total=sum(want.values()))


def compare(operands: Sequence[Inventory], recipe: Recipe | None) -> Difference:
    """Hold inventories against each other.

    Args:
        operands: one or more; one alone is only held against the recipe's pins.
        recipe: whose pins are compared, if any.
    """
    rows = [_row(name, packages) for name, packages in _aligned(operands)]
    return Difference(
        operands=tuple(operands),
        recipe=recipe,
        pins=compare_pins(recipe, operands),
        rows=tuple(sorted(rows, key=lambda row: row.name)),
    )


def _aligned(operands: Sequence[Inventory]) -> list[tuple[str, tuple[Package | None, ...]]]:
    """Packages of the same thing side by side.

    Where all operands that have a thing have it in one ecosystem, those are the same package. What an operand has
    besides, in another ecosystem, gets a row of its own. Where no ecosystem is common, each operand's first one counts.
    """
    tables = [_by_name(inventory) for inventory in operands]
    aligned: list[tuple[str, tuple[Package | None, ...]]] = []
    for name in sorted({name for table in tables for name in table}):
        held = [dict(table.get(name, {})) for table in tables]
        having = [packages for packages in held if packages]
        common = [e for e in ECOSYSTEMS if all(e in packages for packages in having)]
        for ecosystem in common:
            shown = name if ecosystem == common[0] else f"{name} ({ecosystem})"
            aligned.append((shown, tuple(packages.pop(ecosystem, None) for packages in held)))
        if not common:
            firsts = tuple(_first(packages) for packages in held)
            aligned.append((name, tuple(p.pop(e) if e else None for p, e in zip(held, firsts, strict=True))))
        for ecosystem in ECOSYSTEMS:
            if any(ecosystem in packages for packages in held):
                aligned.append((f"{name} ({ecosystem})", tuple(p.get(ecosystem) for p in held)))
    return aligned


def _first(packages: Mapping[Ecosystem, Package]) -> Ecosystem | None:
    return next((ecosystem for ecosystem in ECOSYSTEMS if ecosystem in packages), None)


def _by_name(inventory: Inventory) -> dict[str, dict[Ecosystem, Package]]:
    """Packages by common name and ecosystem; of two with one normalised name the second keeps its own spelling."""
    table: dict[str, dict[Ecosystem, Package]] = {}
    for package in sorted(inventory.packages, key=lambda p: (p.ecosystem, p.name)):
        name = common_name(package)
        if package.ecosystem in table.get(name, {}):
            name = f"{package.name} ({package.ecosystem})"
        table.setdefault(name, {})[package.ecosystem] = package
    return table


def _row(name: str, packages: tuple[Package | None, ...]) -> Row:
    having = [package for package in packages if package is not None]
    differs: list[What] = ["missing"] if len(having) < len(packages) else []
    compared: list[What] = ["version"] if len(having) > 1 else []
    first = having[0]
    if any(not _same_version(name, first, other) for other in having[1:]):
        return Row(name=name, packages=packages, differs=(*differs, "version"), compared=tuple(compared))
    changed: tuple[str, ...] = ()
    if len(having) > 1 and len({package.ecosystem for package in having}) == 1:
        for what, values in _contents(having).items():
            known = [value for value in values if value is not None]
            if len(known) > 1:
                compared.append(what)
                if len(set(known)) > 1:
                    differs.append(what)
        if "files" in differs:
            changed = _changed(having)
    return Row(name=name, packages=packages, differs=tuple(differs), compared=tuple(compared), files=changed)


def _contents(packages: Sequence[Package]) -> dict[What, list[str | None]]:
    return {
        "build": [package.build for package in packages],
        "artifact": [package.sha256 for package in packages],
        "files": [package.content for package in packages],
    }


def _changed(packages: Sequence[Package]) -> tuple[str, ...]:
    """The places that are not the same in all operands that know their files."""
    known = [package.files for package in packages if package.files is not None]
    places = {place for files in known for place in files}
    return tuple(sorted(place for place in places if len({files.get(place) for files in known}) > 1))


def _same_version(name: str, left: Package, right: Package) -> bool:
    return same_version(name, left.version, right.version, ecosystems=(left.ecosystem, right.ecosystem))
