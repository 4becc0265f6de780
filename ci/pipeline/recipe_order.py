"""Print every recipe behind the one that it extends: reference, folder, `image` or `-`, that one's folder or `-`.

    envbuild list --json | python3 recipe_order.py

The columns have a tab between them.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any


def ordered(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """The lines, for the rows that `envbuild list --json` prints."""
    by_ref = {row["ref"]: row for row in rows}
    lines: dict[str, tuple[str, str, str, str]] = {}

    def place(ref: str) -> None:
        path = Path(by_ref[ref]["path"])
        extends = tomllib.loads(path.read_text("utf-8")).get("extends")
        parent = f"{ref.partition(':')[0]}:{extends}" if extends else None
        if parent:
            place(parent)
        image = "image" if "image" in by_ref[ref]["makes"] else "-"
        lines.setdefault(ref, (ref, str(path.parent), image, lines[parent][1] if parent else "-"))

    for ref in by_ref:
        place(ref)
    return list(lines.values())


if __name__ == "__main__":
    for line in ordered(json.load(sys.stdin)):
        print(*line, sep="\t")
