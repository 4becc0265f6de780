"""The suite while it runs: on a terminal a line for each running check, above them what is done."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from envbuild.cli.terminal import BarProgress, Terminal
from envbuild.plain import visible
from envbuild.progress import Progress, Task

_START = re.compile(r"\[(\d+)/(\d+)\] ([a-z0-9-]+): (.*)")
_END = re.compile(r"    ([a-z0-9-]+): (passed|FAILED|not run)(?: in ([\d.]+) s)?(?:: (.*))?")
_MARKS = {"passed": ("✓", "green"), "FAILED": ("✗", "bold red"), "not run": ("–", "yellow")}


class LiveSuite:
    """Takes the suite's lines (:func:`envbuild.smoke.runner.run_suite` says what they look like) as notes.

    A line of another form (what a program prints in the container) stays as it is.
    """

    def __init__(self, console: Console) -> None:
        self._bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[reason]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._outer = BarProgress(console)
        self._running: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the lines on the terminal while the context lasts."""
        with self._bars:
            yield

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Task]:
        """A step besides the checks."""
        with self._outer.task(label, total=total, unit=unit) as task:
            yield task

    def note(self, text: str) -> None:
        """One line of the suite."""
        text = visible(text)
        with self._lock:
            if start := _START.fullmatch(text):
                self._start(start[3], start[4])
            elif end := _END.fullmatch(text):
                self._end(end[1], end[2], end[3], end[4])
            else:
                self._bars.console.print(text, highlight=False, markup=False)

    def _start(self, check: str, reason: str) -> None:
        self._running[check] = self._bars.add_task(check, total=None, reason=reason)

    def _end(self, check: str, how: str, seconds: str | None, why: str | None) -> None:
        task = self._running.pop(check, None)
        if task is not None:
            self._bars.remove_task(task)
            self._bars.refresh()  # or the line would be drawn once more below what is printed now
        told = "" if how == "passed" else f" {how}"
        took = f" {seconds} s" if seconds else ""
        reason = f" {why}" if why else ""
        line = Text.assemble(_MARKS[how], f" {check}{told}", (took + reason, "dim"))
        self._bars.console.print(line, highlight=False)


@contextmanager
def suite_progress(terminal: Terminal) -> Iterator[Progress]:
    """Where the suite's lines go: live on a terminal, plain lines in a log, nowhere with ``--quiet``."""
    if not isinstance(terminal.progress, BarProgress):
        yield terminal.progress
        return
    live = LiveSuite(terminal.console)
    with live.shown():
        yield live
