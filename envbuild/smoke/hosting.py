"""The process that the checks of one group share: they take turns in it, and it keeps their ranks (:mod:`.team`)."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .process import Ended, Running, start
from .team import Job


@dataclass(slots=True, kw_only=True)
class Host:
    """One group's process and its folder."""

    folder: Path
    running: Running
    ended: Ended | None = None

    def poll(self) -> Ended | None:
        """How the process ended, or ``None`` while it runs."""
        if self.ended is None:
            self.ended = self.running.poll()
        return self.ended

    def tell(self, job: Job) -> None:
        """Hand over a check; that the process is gone already is seen by polling."""
        stdin = self.running.process.stdin
        assert stdin is not None
        with suppress(OSError):
            stdin.write(job.line())
            stdin.flush()

    def dismiss(self) -> None:
        """Close its input: it ends its ranks and then itself."""
        stdin = self.running.process.stdin
        assert stdin is not None
        with suppress(OSError):
            stdin.close()

    def kill(self) -> None:
        """End it and its ranks at once."""
        self.running.kill()
        if self.ended is None:
            self.ended = Ended(code=None, seconds=0.0)


@dataclass(slots=True, kw_only=True)
class Turn:
    """One check's turn, to be polled as a process of its own would be. ``timeout`` in seconds."""

    host: Host
    job: Job
    last: bool
    timeout: float
    started: float
    over: bool = False

    def poll(self) -> Ended | None:
        """How the turn ended: with status 0 once the answer is there.

        The last one ends with the process, so that a rank that does not leave well is a crash of that check. A turn
        whose time is up, or in which the process ends, ends the process; the next check gets another.
        """
        seconds = time.monotonic() - self.started
        ended = self.host.poll()
        answered = self.job.result.exists()
        if answered and self.last and ended is None:
            self.host.dismiss()
        if ended is not None:
            self.over = True
            return Ended(code=ended.code, seconds=seconds)
        if answered and not self.last:
            self.over = True
            return Ended(code=0, seconds=seconds)
        if seconds < self.timeout:
            return None
        self.kill()
        return Ended(code=None, seconds=seconds)

    def kill(self) -> None:
        """End the group's process if this turn is not over."""
        if not self.over:
            self.over = True
            self.host.kill()


@dataclass(slots=True, kw_only=True)
class Hosts:
    """The processes of all groups, each started when a check first needs it."""

    environ: dict[str, str]
    _hosts: dict[str, Host] = field(default_factory=dict)

    def turn(self, group: str, job: Job, *, timeout: float, last: bool) -> Turn:
        """Give a check its turn.

        Args:
            group: whose process; a new one where there is none, or where the last one ended.
            job: the check's question.
            timeout: seconds of wall time.
            last: no other check of the group comes after it.
        """
        host = self._hosts.get(group)
        if host is None or host.poll() is not None:
            if host is not None:
                shutil.rmtree(host.folder, ignore_errors=True)
            host = self._hosts[group] = self._start(group)
        host.tell(job)
        return Turn(host=host, job=job, last=last, timeout=timeout, started=time.monotonic())

    def _start(self, group: str) -> Host:
        folder = Path(tempfile.mkdtemp(prefix=f"envbuild-group-{group}-"))
        running = start(
            [sys.executable, "-P", "-s", "-m", f"{__package__}.member", "group", str(folder)],
            env=self.environ,
            timeout=math.inf,
            log=folder / "log",
            stdin=subprocess.PIPE,
        )
        return Host(folder=folder, running=running)

    def close(self) -> None:
        """End what runs and remove its folders. Harmless when that was done already."""
        for host in self._hosts.values():
            host.kill()
            shutil.rmtree(host.folder, ignore_errors=True)
        self._hosts.clear()
