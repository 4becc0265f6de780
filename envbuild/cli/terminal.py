"""The terminal: progress and notes on stderr, data on stdout, errors in one place.

Names and texts of others are among what is printed. All of it goes through here, where :mod:`envbuild.plain` writes out
what a terminal would obey, and where nothing is read as markup. Further lines of a message are indented: a line that
begins like one of envbuild's own is envbuild's own.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichBars
from rich.text import Text

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.disk import is_full
from envbuild.plain import json_text, visible
from envbuild.progress import Progress, SilentProgress, Task

_PLAIN_EVERY = 10.0
_INDENT = "  "


class BarProgress:
    """Bars for a terminal."""

    def __init__(self, console: Console) -> None:
        self._bars = RichBars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._lock = threading.Lock()
        self._running = 0

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Task]:
        """A bar while the context lasts, then one line with the time it took."""
        label = visible(label)
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
                    took = f"{time.monotonic() - started:.1f} s"
                    line = Text.assemble(("✓", "green"), f" {label} ", (took, "dim"))
                    self._bars.console.print(line, highlight=False)
                self._running -= 1
                if self._running == 0:
                    self._bars.stop()

    def note(self, text: str) -> None:
        """One line that stays above the bars."""
        self._bars.console.print(_paragraph(text), highlight=False, markup=False)


class _Bar:
    def __init__(self, bars: RichBars, identity: TaskID, unit: str) -> None:
        self._bars, self._identity, self._unit = bars, identity, unit

    def advance(self, amount: int) -> None:
        self._bars.update(self._identity, advance=amount)
        task = self._bars.tasks[self._bars.task_ids.index(self._identity)]
        self._bars.update(self._identity, amount=_amount(int(task.completed), task.total, self._unit))

    def total(self, total: int) -> None:
        self._bars.update(self._identity, total=total)


def _paragraph(text: str) -> str:
    """A text of envbuild's own with its lines, whatever stands in them; the further ones are indented."""
    return visible(text, lines=True).replace("\n", f"\n{_INDENT}")


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
        self._console.print(_paragraph(text), highlight=False, markup=False, soft_wrap=True)


class _Line:
    def __init__(self, console: Console, label: str, total: int | None, unit: str) -> None:
        self._console, self._label, self._total, self._unit = console, visible(label), total, unit
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

    def data(self, value: object, text: str | Sequence[str]) -> None:
        """Print the result: ``value`` as JSON with ``--json``, else ``text``.

        Args:
            value: what JSON can hold.
            text: lines, each of which stays one whatever is in it; or a text whose own line ends stay.
        """
        shown = visible(text, lines=True) if isinstance(text, str) else "\n".join(map(visible, text))
        with _to_stdout():
            self._out(self._json(value) if self.json else shown)
            sys.stdout.flush()

    def file(self, text: str) -> None:
        """Print a file's content as it is, in UTF-8 whatever the encoding of stdout."""
        with _to_stdout():
            sys.stdout.flush()
            sys.stdout.buffer.write(text.encode())
            sys.stdout.buffer.flush()

    def say(self, text: str) -> None:
        """A text with its lines for people, on stderr."""
        self.console.print(visible(text, lines=True), highlight=False, markup=False, soft_wrap=True)

    def error(self, error: EnvbuildError) -> None:
        """Print a failure: on stderr for people; with ``--json`` on stdout as well, as an object."""
        head = Text.assemble(("error", "bold red"), f"[{error.id}]: ")
        self.console.print(head, end="", highlight=False)
        self._line(error.message)
        if error.where:
            self._line(f"   at: {visible(error.where)}")
        self._line(f" hint: {error.hint}")
        if self.json:
            with suppress(OSError):  # a stdout that takes nothing; stderr has told
                self._out(self._json({"error": error.to_dict()}))

    def _line(self, text: str) -> None:
        self.console.print(_paragraph(text), highlight=False, markup=False, soft_wrap=True)

    @staticmethod
    def _json(value: object) -> str:
        """JSON in whatever encoding stdout has."""
        text = json_text(value)
        return text if _takes(text) else json.dumps(value, indent=2)

    @staticmethod
    def _out(text: str) -> None:
        sys.stdout.write(text + "\n")


@contextmanager
def _to_stdout() -> Iterator[None]:
    """A full disk below stdout is told as what it is: the system names no file for a descriptor."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise EnvbuildError(
            "disk-full",
            f"standard output cannot be written: {error.strerror}",
            where="stdout",
            hint="free some space where the output goes, or write it elsewhere",
            exit=Exit.ENGINE,
        ) from error


def _takes(text: str) -> bool:
    """Whether stdout's encoding has every character of ``text``."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
