"""One thing that is wrong, or worth knowing, in a DeepSpeed configuration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from envbuild.advise.document import Member, Value


class Level(StrEnum):
    """An error makes the check fail; a warning is told and does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Where (dotted ``path``, line and column from 1), what, and the ``fix``; ``id`` is stable, in kebab-case."""

    id: str
    path: str
    line: int
    column: int
    message: str
    fix: str
    level: Level = Level.ERROR

    def to_dict(self) -> dict[str, str | int]:
        """As the JSON output has it."""
        return {
            "id": self.id,
            "level": str(self.level),
            "path": self.path,
            "line": self.line,
            "column": self.column,
            "message": self.message,
            "fix": self.fix,
        }

    def text(self, file: str) -> str:
        """One line: ``file:line:column: path: message; fix``."""
        name = f"{self.path}: " if self.path else ""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{file}:{self.line}:{self.column}: {name}{self.message}{fix}"


def at(
    place: Member | Value, id: str, path: str, message: str, fix: str, level: Level = Level.ERROR
) -> Problem:
    """A problem at the place of a key or value."""
    return Problem(
        id=id, path=path, line=place.line, column=place.column, message=message, fix=fix, level=level
    )
