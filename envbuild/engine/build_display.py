"""A running ``docker buildx build`` on the terminal and in its log: a line for each step that does something."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

from envbuild.engine.build_events import Amount, Event, Output, Step, Text
from envbuild.progress import Progress, Task

LAST_LINES = 15
"""How much of a failed step's output an error quotes."""

_FLAGS = re.compile(r"--(?:mount|network|security|link|chmod|chown|from|parents)\b\S*\s+")
_QUIET = re.compile(r"\[internal\]|\[context \S+\] load ")
_SENT = re.compile(r"\[context (\S+)\] load from client")
_WIDTH = 72
_WORTH_A_LINE = 1 << 20
_BEAT = 5.0


@dataclass(slots=True)
class Seen:
    """What is known of one step: its whole text, its end, and the last lines that it wrote."""

    name: str
    ended: bool = False
    cached: bool = False
    error: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))


class Display:
    """Shows the build's steps as tasks, writes everything to ``log``, and remembers what failed.

    Args:
        progress: where steps are shown; a step that is cached or takes no work is not.
        log: an open text file.
        sizes: how many bytes each named context has, for its transfer's bar.
    """

    def __init__(self, progress: Progress, log: TextIO, sizes: Mapping[str, int]) -> None:
        self._progress = progress
        self._log = log
        self._sizes = sizes
        self._tasks: dict[str, tuple[ExitStack, Task]] = {}
        self._moved: dict[tuple[str, str], int] = {}
        self._guard = threading.Lock()
        self.steps: dict[str, Seen] = {}
        self.rest: list[str] = []

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the display alive while the context lasts: long steps show that they go on."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT):
                with self._guard:
                    for _, task in self._tasks.values():
                        task.advance(0)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with self._guard:
                for key in list(self._tasks):
                    self._close(key, failed=True)

    def take(self, event: Event) -> None:
        """One more event."""
        with self._guard:
            if isinstance(event, Step):
                self._step(event)
            elif isinstance(event, Output):
                self._output(event)
            elif isinstance(event, Amount):
                self._amount(event)
            else:
                self._text(event)

    @property
    def failed(self) -> Seen | None:
        """The step whose own work failed; the others were stopped because of it."""
        wrong = [step for step in self.steps.values() if step.error]
        own = [step for step in wrong if "context canceled" not in step.error]
        return next(iter(own or wrong), None)

    def _step(self, event: Step) -> None:
        new = event.key not in self.steps or not self.steps[event.key].name
        known = self.steps.setdefault(event.key, Seen(name=event.name))
        known.name = known.name or event.name
        if new:
            self._log.write(f"\n=== {event.name}{' (cached)' if event.cached else ''}\n")
        idle = event.key not in self._tasks and not known.ended
        if event.started and not event.ended and idle and not _QUIET.match(event.name):
            self._open(event.key, short(event.name), None, "lines")
        if event.ended:
            known.ended, known.cached = True, event.cached
            if event.error:
                known.error = event.error
                self._log.write(f"--- failed: {event.error}\n")
            self._close(event.key, failed=bool(event.error))

    def _open(self, key: str, label: str, total: int | None, unit: str) -> None:
        stack = ExitStack()
        self._tasks[key] = (stack, stack.enter_context(self._progress.task(label, total=total, unit=unit)))

    def _close(self, key: str, *, failed: bool) -> None:
        if key not in self._tasks:
            return
        stack, _ = self._tasks.pop(key)
        with suppress(_Stopped), stack:
            if failed:
                raise _Stopped

    def _output(self, event: Output) -> None:
        self._log.write(event.text)
        known = self.steps.setdefault(event.key, Seen(name=""))
        lines = [line.rstrip() for line in event.text.replace("\r", "\n").split("\n") if line.strip()]
        known.lines.extend(lines)
        if event.key in self._tasks:
            self._tasks[event.key][1].advance(len(lines))

    def _amount(self, event: Amount) -> None:
        """A context on its way. Its step starts and ends once before that: BuildKit asks what it is."""
        found = _SENT.fullmatch(self.steps[event.key].name) if event.key in self.steps else None
        before = self._moved.get((event.key, event.part), 0)
        if found is None or event.current < max(before, _WORTH_A_LINE) or found[1] not in self._sizes:
            return
        self._moved[(event.key, event.part)] = event.current
        if event.key not in self._tasks:
            self._open(event.key, f"send {found[1]} to Docker", self._sizes[found[1]], "B")
        self._tasks[event.key][1].advance(event.current - before)
        if event.ended:
            self._close(event.key, failed=False)

    def _text(self, event: Text) -> None:
        self._log.write(event.text + "\n")
        self.rest.append(event.text)


class _Stopped(Exception):
    """Tells a task that its step did not end well: it says no ✓."""


def short(name: str, width: int = _WIDTH) -> str:
    """A step's text on one line without what says how it is run: ``[build 3/9] RUN python3 -m pip install …``."""
    text = " ".join(_FLAGS.sub("", " ".join(name.split())).split())
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
