"""Ranks that stay: the processes that several checks of one group use one after another.

Importing torch and DeepSpeed and initialising NCCL take seconds in every process; checks that belong together pay
them once. Each still is a check with an answer of its own: a rank that says no, crashes or hangs ends the whole team,
and the next check starts a fresh one.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from .process import signal_name, tail

GRACE = 10.0
"""Seconds that the other ranks get once one has failed."""

PAUSE = 0.01
"""Seconds between two looks at the ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one process is asked: whose question, the file with it, and where output and answer go."""

    check: str
    path: Path
    log: Path
    result: Path

    def line(self) -> bytes:
        """As :mod:`.member` reads it."""
        return f"{self.check}\t{self.path}\t{self.log}\n".encode()


@dataclass(slots=True, kw_only=True)
class Member:
    """One rank's process, the pipe that takes its jobs, the log of its start, and the one that it writes now."""

    process: subprocess.Popen[bytes]
    jobs: IO[bytes]
    start: Path
    log: Path


@dataclass(slots=True, kw_only=True)
class Team:
    """The ranks of a group of checks, started when the first one needs them.

    ``folder`` holds logs and what the ranks meet by; it outlives the checks' own scratch folders.
    """

    folder: Path
    _members: list[Member] = field(default_factory=list)
    _environ: Mapping[str, str] = field(default_factory=dict)
    _number: int = 0
    _killed: bool = False

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def rendezvous(self) -> Path:
        """A path that these ranks, and no others, meet by."""
        return self.folder / f"rendezvous{self._number}"

    def ready(self, world: int, *, environ: Mapping[str, str], argv: Sequence[str]) -> None:
        """Have ``world`` ranks with exactly that environment; those that stayed are taken when they fit.

        Args:
            world: number of ranks.
            environ: the environment of each; RANK, WORLD_SIZE and their kin are added.
            argv: the program, which reads jobs from its standard input: :mod:`.member`.
        """
        alive = all(member.process.poll() is None for member in self._members)
        if alive and len(self._members) == world and dict(self._environ) == dict(environ):
            return
        self.close()
        self._members = []
        self._killed = False
        self._number += 1
        self._environ = dict(environ)
        port = str(_free_port())
        for rank in range(world):
            self._members.append(self._start(rank, world, port, argv))

    def _start(self, rank: int, world: int, port: str, argv: Sequence[str]) -> Member:
        own = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        log = self.folder / f"team{self._number}-{rank}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                list(argv),
                env={**self._environ, **own},
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        assert process.stdin is not None
        return Member(process=process, jobs=process.stdin, start=log, log=log)

    def ask(self, jobs: Sequence[Job]) -> int | None:
        """Give each rank its job and wait until each has answered or is gone.

        Once one is gone or has said no, the others get :data:`GRACE` seconds; then the team is ended.

        Returns:
            The rank that was first to end without an answer or to say no; ``None``: all said yes.
        """
        for member, job in zip(self._members, jobs, strict=True):
            member.log = job.log
            _send(member, job.line())
        first: int | None = None
        deadline = 0.0
        while True:
            gone = [member.process.poll() is not None for member in self._members]
            states = [_state(job.result, over) for job, over in zip(jobs, gone, strict=True)]
            if first is None and "bad" in states:
                first, deadline = states.index("bad"), time.monotonic() + GRACE
            if "waiting" not in states or (first is not None and time.monotonic() > deadline):
                break
            time.sleep(PAUSE)
        if first is not None:
            self.close(kill=True)
        return first

    def describe(self, rank: int) -> str:
        """How a rank that gave no answer ended, and the last that it printed."""
        member = self._members[rank]
        code = member.process.returncode
        how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with status {code}"
        printed = tail(member.start) + (tail(member.log) if member.log != member.start else "")
        return f"rank {rank} {how}:\n{printed.strip()[-2000:]}"

    def close(self, *, kill: bool = False) -> int | None:
        """End the ranks, by closing their pipes unless ``kill``. Their logs and how they ended can still be read.

        Returns:
            A rank that did not end well by itself, or ``None``.
        """
        if self._killed:
            return None
        self._killed = kill
        for member in self._members:
            with suppress(OSError):
                member.jobs.close()
        deadline = time.monotonic() + (0.0 if kill else GRACE)
        for member in self._members:
            try:
                member.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
        if kill:
            return None
        return next((rank for rank, m in enumerate(self._members) if m.process.returncode != 0), None)


def _send(member: Member, line: bytes) -> None:
    """Write to a rank; that it is gone already is seen by whoever waits for it."""
    with suppress(OSError):
        member.jobs.write(line)
        member.jobs.flush()


def _state(result: Path, gone: bool) -> str:
    """``good``, ``bad`` (said no, or is gone without an answer) or ``waiting``."""
    try:
        answer = json.loads(result.read_text())
    except (OSError, ValueError):
        return "bad" if gone else "waiting"
    return "good" if answer.get("status") == "passed" else "bad"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
