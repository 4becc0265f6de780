"""What a check is given, and how it starts its ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .model import Expectations, Failure
from .process import signal_name, tail

GRACE = 10.0
"""Seconds that the other ranks get once one has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One check's inputs. ``gpus`` is the number of GPUs when the suite started: what the kernel showed to this
    container, or what the host gave it if that is more.

    ``scratch`` is a folder of the check's own, removed afterwards; ``options`` what a check tells its ranks.
    ``warnings`` is where :meth:`warn` puts what it is told.
    """

    check: str
    expectations: Expectations
    scratch: Path
    timeout: float
    gpus: int
    options: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Say something that a person should know and that does not fail the check, in one line, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    @property
    def rank(self) -> int:
        """This process's rank."""
        return int(os.environ["RANK"])

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return int(os.environ["WORLD_SIZE"])


def program(role: str, check: str, job: Path) -> list[str]:
    """The command line of a check or rank process: no user site, no current folder on ``sys.path``."""
    return [sys.executable, "-P", "-s", "-m", f"{__package__}.child", role, check, str(job)]


def write_job(path: Path, context: Context, *, result: Path) -> None:
    """Write what :mod:`.child` reads."""
    path.write_text(
        json.dumps(
            {
                "parent": os.getpid(),
                "expectations": context.expectations.to_dict(),
                "scratch": str(context.scratch),
                "timeout": context.timeout,
                "gpus": context.gpus,
                "options": dict(context.options),
                "result": str(result),
            }
        )
    )


def read_result(path: Path) -> dict[str, Any] | None:
    """The answer that a child left, or ``None`` when it left none that can be read."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and "status" in value else None


def run_ranks(
    context: Context,
    world: int,
    *,
    environ: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Start one process a rank, wait for all, and return their numbers in rank order.

    The ranks stay in the check's process group, so that its time limit ends them too. What they warn of becomes a
    warning of the check.

    Args:
        context: the check's own.
        world: number of ranks.
        environ: the environment of every rank; RANK, WORLD_SIZE and their kin are added.
        options: what the ranks read as ``context.options``.

    Raises:
        Failure: a rank crashed or said no.
    """
    job_context = Context(
        check=context.check,
        expectations=context.expectations,
        scratch=context.scratch,
        timeout=context.timeout,
        gpus=context.gpus,
        options=dict(options or {}),
    )
    port = str(_free_port())
    results = [context.scratch / f"rank{rank}.json" for rank in range(world)]
    logs = [context.scratch / f"rank{rank}.log" for rank in range(world)]
    processes: list[subprocess.Popen[bytes]] = []
    for rank in range(world):
        job = context.scratch / f"rank{rank}.job"
        write_job(job, job_context, result=results[rank])
        env = {
            **environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        with logs[rank].open("wb") as log:
            processes.append(
                subprocess.Popen(
                    program("rank", context.check, job),
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    first = _wait(processes)
    found = [read_result(path) for path in results]
    for rank, answer in enumerate(found):
        for text in answer.get("warnings", []) if answer else []:
            context.warn(f"rank {rank}: {text}")
    order = sorted(range(world), key=lambda rank: rank != first)
    answers = {rank: _judge(rank, processes[rank].returncode, found[rank], logs[rank]) for rank in order}
    return [answers[rank] for rank in range(world)]


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; once one has failed, end the others after a moment. Returns the rank that failed first."""
    first: int | None = None
    deadline = 0.0
    while True:
        codes = [process.poll() for process in processes]
        if first is None and any(codes):
            first = next(rank for rank, code in enumerate(codes) if code)
            deadline = time.monotonic() + GRACE
        if None not in codes:
            return first
        if first is not None and time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.05)


def _judge(rank: int, code: int, result: dict[str, Any] | None, log: Path) -> dict[str, Any]:
    if code != 0 or result is None:
        how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with status {code}"
        raise Failure(
            expected=f"rank {rank} to finish",
            seen=f"rank {rank} {how}:\n{tail(log).strip()[-2000:]}",
            hint="the last lines of that rank's output say what went wrong",
        )
    if result["status"] != "passed":
        raise Failure(
            expected=str(result.get("expected", f"rank {rank} to run")),
            seen=f"rank {rank}: {result.get('seen')}",
            hint=str(result.get("hint", "run the suite on a machine whose GPUs are free")),
            numbers=result.get("numbers", {}),
        )
    numbers: dict[str, Any] = result["numbers"]
    return numbers


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
