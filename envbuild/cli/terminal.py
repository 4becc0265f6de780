"""The terminal: progress and notes on stderr, data on stdout, errors in one place."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichBars

from envbuild.errors import EnvbuildError
from envbuild.progress import Progress, SilentProgress, Task

_PLAIN_EVERY = 10.0


class BarProgress:
    """Bars for a terminal."""

    def __init__(self, console: Console) -> None:
        self._bars = RichBars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._lock = threading.Lock()
        self._running = 0

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Task]:
        """A bar while the context lasts, then one line with the time it took."""
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._bars.start()
            identity = self._bars.add_task(label, total=total, amount="")
        started = time.monotonic()
        finished = False
        try:
            yield _Bar(self._bars, identity, unit)
            finished = True
        finally:
            with self._lock:
                self._bars.remove_task(identity)
                if finished:
                    self._bars.console.print(
                        f"[green]✓[/] {label} [dim]{time.monotonic() - started:.1f} s[/]", highlight=False
                    )
                self._running -= 1
                if self._running == 0:
                    self._bars.stop()

    def note(self, text: str) -> None:
        """One line that stays above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)


class _Bar:
    def __init__(self, bars: RichBars, identity: TaskID, unit: str) -> None:
        self._bars, self._identity, self._unit = bars, identity, unit

    def advance(self, amount: int) -> None:
        self._bars.update(self._identity, advance=amount)
        task = self._bars.tasks[self._bars.task_ids.index(self._identity)]
        self._bars.update(self._identity, amount=_amount(int(task.completed), task.total, self._unit))

    def total(self, total: int) -> None:
        self._bars.update(self._identity, total=total)


def _amount(done: int, total: float | None, unit: str) -> str:
    if unit == "B":
        text = size(done)
        return f"{text} of {size(int(total))}" if total else text
    return f"{done} of {int(total)} {unit}" if total else f"{done} {unit}"


def size(count: int) -> str:
    """Bytes in decimal units, as registries and ``docker images`` count them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


class LineProgress:
    """Plain lines for a log: one when a step starts being long, one when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Task]:
        """A line every ten seconds while the context lasts, and one at its end."""
        line = _Line(self._console, label, total, unit)
        started = time.monotonic()
        yield line
        self.note(f"✓ {label} {time.monotonic() - started:.1f} s")

    def note(self, text: str) -> None:
        """One line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Line:
    def __init__(self, console: Console, label: str, total: int | None, unit: str) -> None:
        self._console, self._label, self._total, self._unit = console, label, total, unit
        self._done = 0
        self._next = time.monotonic() + _PLAIN_EVERY
        self._lock = threading.Lock()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + _PLAIN_EVERY
        text = _amount(self._done, self._total, self._unit)
        self._console.print(f"  {self._label}: {text}", highlight=False, markup=False, soft_wrap=True)

    def total(self, total: int) -> None:
        self._total = total


class Terminal:
    """Where a command writes: ``data`` to stdout, everything else to stderr. NO_COLOR is honoured (by rich)."""

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.json = json
        self.console = Console(stderr=True, emoji=False)
        self.progress: Progress
        if quiet:
            self.progress = SilentProgress()
        elif self.console.is_terminal:
            self.progress = BarProgress(self.console)
        else:
            self.progress = LineProgress(self.console)

    def data(self, value: object, text: str) -> None:
        """Print the result: ``value`` as JSON with ``--json``, else ``text``."""
        sys.stdout.write((json.dumps(value, indent=2, ensure_ascii=False) if self.json else text) + "\n")
        sys.stdout.flush()

    def error(self, error: EnvbuildError) -> None:
        """Print a failure: on stderr for people; with ``--json`` on stdout as well, as an object."""
        self.console.print(f"[bold red]error[/]\\[{error.id}]: ", end="")
        self.console.print(error.message, highlight=False, markup=False, soft_wrap=True)
        if error.where:
            self.console.print(f"   at: {error.where}", highlight=False, markup=False, soft_wrap=True)
        self.console.print(f" hint: {error.hint}", highlight=False, markup=False, soft_wrap=True)
        if self.json:
            with suppress(OSError):  # a stdout that takes nothing; stderr has told
                sys.stdout.write(json.dumps({"error": error.to_dict()}, indent=2, ensure_ascii=False) + "\n")
