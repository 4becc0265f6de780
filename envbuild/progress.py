"""What long steps report to. The terminal lives in ``cli/``; everything below sees only these protocols."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running step."""

    def advance(self, amount: int) -> None:
        """Add ``amount`` (bytes or items, as the task's unit says) to what is done. Thread-safe."""

    def total(self, total: int) -> None:
        """Set or correct the total once it is known."""


class Progress(Protocol):
    """Where steps are shown. Implementations are thread-safe."""

    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> AbstractContextManager[Task]:
        """Show a step while the context lasts. ``unit`` is ``"B"`` (bytes) or a plural noun (``"files"``)."""

    def note(self, text: str) -> None:
        """Say one line that stays."""


class _SilentTask:
    def advance(self, amount: int) -> None:
        """Nothing."""

    def total(self, total: int) -> None:
        """Nothing."""


class SilentProgress:
    """Shows nothing: ``--quiet`` and tests."""

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Task]:
        """A step that nobody sees."""
        yield _SilentTask()

    def note(self, text: str) -> None:
        """Nothing."""


class Within:
    """A progress whose tasks all count towards one task that is already shown: many small steps, one bar."""

    def __init__(self, outer: Task, notes: Progress) -> None:
        self._outer = outer
        self._notes = notes

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Task]:
        """The outer task, whatever the label; its total stays as it is."""
        yield _Part(self._outer)

    def note(self, text: str) -> None:
        """One line that stays."""
        self._notes.note(text)


class _Part(_SilentTask):
    def __init__(self, outer: Task) -> None:
        self._outer = outer

    def advance(self, amount: int) -> None:
        self._outer.advance(amount)
