"""The documentation names the doctor's rows as they are."""

from __future__ import annotations

import re
from pathlib import Path

import envbuild
from envbuild.image.inside.doctor.main import LOOKS

DOCS = Path(envbuild.__file__).parents[1] / "docs"
ROWS = {name for name, _ in LOOKS}


def cells(path: str, head: str) -> list[list[str]]:
    """The rows of the table in ``path`` that starts with ``head``."""
    table = (DOCS / path).read_text().partition(head)[2].partition("\n\n")[0]
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in line] for line in lines]


def test_every_row_is_documented_and_no_other() -> None:
    assert {row[0].strip("`") for row in cells("reference/programs.md", "| row | problem")} == ROWS


def test_symptoms_lead_to_rows_that_are_there() -> None:
    named = [row[1] for row in cells("how-to/troubleshooting.md", "| symptom, or what the log says |")]
    assert len(named) > 20
    assert {name.strip("`") for name in named if not name.startswith("none")} <= ROWS
