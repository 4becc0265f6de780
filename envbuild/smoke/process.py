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


def finish(argv: Sequence[str], *, env: Mapping[str, str], timeout: float, log: Path) -> Ended:
    """Run a process in a session of its own until it ends or its time is up.

    Its output goes to ``log`` (a file, so that a grandchild that keeps it open cannot block). However this function
    is left, the whole process group is dead.

    Args:
        argv: the program and its arguments.
        env: the whole environment.
        timeout: seconds.
        log: file for stdout and stderr.
    """
    started = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            in_time = _ended(process.pid, started + timeout)
        finally:
            _kill_group(process)
    code = process.returncode if in_time else None
    return Ended(code=code, seconds=time.monotonic() - started)


def _ended(pid: int, deadline: float) -> bool:
    """Wait for a process without reaping it, so that its number, which is its group's, stays taken."""
    pause = 0.001
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(0.05, pause * 2)
    return True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started, then reap it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
