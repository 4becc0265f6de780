"""``envbuild diff --json`` (docs/reference/json.md)."""

from __future__ import annotations

from envbuild.difference import (
    ECOSYSTEMS,
    Difference,
    FileDifference,
    Inventory,
    Package,
    Pin,
    Pull,
    Row,
    pull_between,
)


def diff_value(
    found: Difference, files: tuple[FileDifference, ...] | None, *, pins_only: bool
) -> dict[str, object]:
    """The document. ``packages`` lists what differs or is missing somewhere; ``same`` counts the others."""
    differing = [row for row in found.rows if row.differs]
    return {
        "operands": [_operand(inventory) for inventory in found.operands],
        "recipe": str(found.recipe.ref) if found.recipe else None,
        "agree": found.pins_agree,
        "pins": [_pin(pin) for pin in found.pins],
        "packages": None if pins_only else [_row(row) for row in differing],
        "same": None if pins_only else len(found.rows) - len(differing),
        "files": None if files is None else [_file(item) for item in files],
        "pull": _pull(pull_between(found.operands)),
    }


def _pull(pull: Pull | None) -> dict[str, object] | None:
    if pull is None:
        return None
    return {"layers": pull.layers, "of": pull.of, "bytes": pull.bytes, "total": pull.total}


def _operand(inventory: Inventory) -> dict[str, object]:
    return {
        "operand": inventory.label,
        "form": inventory.form,
        "ref": inventory.ref,
        "packages": {ecosystem: len(inventory.of(ecosystem)) for ecosystem in ECOSYSTEMS},
        "digest": inventory.digest,
        "layers": list(inventory.layers),
        "size": inventory.size,
    }


def _pin(pin: Pin) -> dict[str, object]:
    return {
        "name": pin.name,
        "recipe": pin.recipe,
        "agrees": pin.agrees,
        "forms": [
            {
                "values": list(cell.values),
                "status": cell.status,
                "why": cell.why,
                "sources": list(cell.sources),
            }
            for cell in pin.cells
        ],
    }


def _row(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "differs": list(row.differs),
        "compared": list(row.compared),
        "packages": [_package(package) for package in row.packages],
        "files": list(row.files),
    }


def _package(package: Package | None) -> dict[str, object] | None:
    if package is None:
        return None
    return {
        "ecosystem": package.ecosystem,
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "sha256": package.sha256,
        "content": package.content,
    }


def _file(item: FileDifference) -> dict[str, object]:
    return {"path": item.path, "what": item.what, "sha256": list(item.hashes), "expected": item.expected}
