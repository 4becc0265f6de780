"""Start a process, give it a time limit, and leave nothing of it behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TAIL = 6000
"""How much of a process's output is kept, in bytes from its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: exit status (negative: the signal), or ``None`` when its time ran out."""

    code: int | None
    seconds: float

    def describe(self, timeout: float) -> str:
        """In words, for a report."""
        if self.code is None:
            return f"no answer after {timeout:g} s; the process and its children were killed"
        if self.code < 0:
            return f"the process was killed by {signal_name(-self.code)}"
        return f"the process ended with status {self.code} and no answer"


def signal_name(number: int) -> str:
    """``SIGSEGV`` of 11; ``signal 77`` where the number has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def tail(path: Path) -> str:
    """The end of a log, decoded as well as it goes."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


@dataclass(slots=True, kw_only=True)
class Running:
    """A process in a session of its own, with a time limit in seconds. Whoever started it polls or kills it."""

    process: subprocess.Popen[bytes]
    started: float
    timeout: float

    def poll(self) -> Ended | None:
        """How it ended, once it has or its time is up; then its whole process group is dead. Else ``None``."""
        seconds = time.monotonic() - self.started
        # Not reaped yet, so that its number, which is its group's, stays taken.
        over = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        if not over and seconds < self.timeout:
            return None
        self.kill()
        return Ended(code=self.process.returncode if over else None, seconds=seconds)

    def kill(self) -> None:
        """Kill the process and what it started, then reap it. Harmless when that was done already."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float,
    log: Path,
    stdin: int = subprocess.DEVNULL,
) -> Running:
    """Start a process in a session of its own.

    Args:
        argv: the program and its arguments.
        env: the whole environment.
        timeout: seconds after which :meth:`Running.poll` ends it.
        stdin: ``subprocess.PIPE`` for one that is told more later.
        log: file for stdout and stderr (a file, so that a grandchild that keeps it open cannot block).
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=stdin,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(process=process, started=time.monotonic(), timeout=timeout)
