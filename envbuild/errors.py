"""The one error type and the exit codes.

Every failure that a user can cause or meet is an :class:`EnvbuildError`. The command line prints it in one
place; nothing else prints errors. Any other exception is a bug and exits with 1.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Process exit codes. They are a contract: scripts rely on them (docs/reference/exit-codes.md)."""

    DONE = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    NETWORK = 4
    VERIFY = 5
    GATE = 6
    ENGINE = 7


class EnvbuildError(Exception):
    """What went wrong, where, and which command or edit helps.

    Args:
        id: kebab-case name, stable, for scripts (``wrong-hash``).
        message: one or a few lines that say what happened, with expected and seen values.
        where: ``file:line``, a key or JSON path, or an artifact; ``None`` when the message says it all.
        hint: what to do next; names a command where there is one.
        exit: the process exit code.
    """

    def __init__(self, id: str, message: str, *, hint: str, exit: Exit, where: str | None = None) -> None:
        super().__init__(message)
        self.id = id
        self.message = message
        self.where = where
        self.hint = hint
        self.exit = exit

    def to_dict(self) -> dict[str, str | None]:
        """The ``error`` object of ``--json`` output."""
        return {"id": self.id, "message": self.message, "where": self.where, "hint": self.hint}

    def __reduce__(self) -> tuple[object, ...]:
        """Keep every field when the error crosses a process boundary."""
        return (_rebuild, (self.id, self.message, self.hint, int(self.exit), self.where))


def _rebuild(id: str, message: str, hint: str, exit: int, where: str | None) -> EnvbuildError:
    return EnvbuildError(id, message, hint=hint, exit=Exit(exit), where=where)
