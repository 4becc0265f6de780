"""The table of docs/seed-commands.md, as values. Also a program: ``python seedtable.py WORD`` prints the lines to run.

Only the standard library: the script on the GPU machine runs it with whatever Python is there.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/seed-commands.md"
TESTED = ("CPU", "2 GPUs", "docker", "two containers", "no")


@dataclass(frozen=True)
class Line:
    """One row: the command as written, whether it works, and how that is known. ``folder`` is below examples/."""

    section: str
    folder: str
    command: str
    works: bool
    remark: str
    tested: tuple[str, ...]


def read(text: str) -> list[Line]:
    """Every row of every table that starts with a command. A row that does not fit raises ValueError."""
    lines, section, folder = [], "", ""
    for row in text.splitlines():
        if row.startswith("## "):
            section = row[3:]
            named = re.search(r"\(in `examples/?([^`]*)`\)", section)
            folder = named[1] if named else ""
        found = re.fullmatch(r"\| `(.+?)` \| (yes|no) \| (.*) ?\| (.+?) \|", row)
        if found:
            command, works, remark, tested = found.groups()
            words = tuple(word.strip() for word in tested.partition(":")[0].split(","))
            if not set(words) <= set(TESTED):
                raise ValueError(f"{command}: tested {tested!r}; there is {', '.join(TESTED)}")
            if "no" in words and ":" not in tested:
                raise ValueError(f"{command}: not tested, and no reason")
            lines.append(Line(section, folder, command, works == "yes", remark.strip(), words))
        elif row.startswith("| `"):
            raise ValueError(f"not four columns with yes or no in the second: {row}")
    return lines


def lines(word: str) -> list[Line]:
    """The page's rows that are tested in this way."""
    return [line for line in read(PAGE.read_text()) if word in line.tested]


if __name__ == "__main__":
    for line in lines(sys.argv[1]):
        print(line.folder or ".", "yes" if line.works else "no", line.command, sep="\t")
