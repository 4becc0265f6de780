"""One check's process: starting it, and making a result of how it ended."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .causes import hint_of
from .checks import Check
from .context import Context, program, read_result, write_job
from .hosting import Hosts, Turn
from .model import CheckResult, Expectations, Status
from .process import Ended, Running, start, tail
from .team import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question that was put. Whoever put it polls until there is a result, or ends it."""

    check: Check
    folder: Path
    process: Running | Turn

    def poll(self) -> CheckResult | None:
        """The result, once there is one; then the process and its folder are gone. Else ``None``."""
        ended = self.process.poll()
        if ended is None:
            return None
        try:
            return _result(self, ended)
        finally:
            self.end()

    def end(self) -> None:
        """Kill what runs and remove the folder. Harmless when that was done already."""
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def ask(
    check: Check,
    expectations: Expectations,
    *,
    gpus: int,
    nodes: int,
    timeout: float,
    hosts: Hosts,
    coming: Sequence[str] = (),
) -> Asked:
    """Start a check, or give it its turn in the process of its group.

    Args:
        check: the question.
        expectations: what must be true.
        gpus: how many there were when the suite started.
        nodes: how many of them the kernel showed.
        timeout: seconds of wall time.
        hosts: the processes of the groups.
        coming: the checks of its group that come after it; the check reads them as ``context.options["coming"]``.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"envbuild-{check.id}-"))
    scratch = folder / "scratch"
    scratch.mkdir()
    context = Context(
        check=check.id,
        expectations=expectations,
        scratch=scratch,
        timeout=timeout,
        deadline=time.monotonic() + timeout,
        gpus=gpus,
        nodes=nodes,
        options={"coming": list(coming)},
    )
    job = folder / "job.json"
    write_job(job, context, result=folder / "answer.json")
    if check.group:
        asked = Job(check=check.id, path=job, log=folder / "log", result=folder / "answer.json")
        turn = hosts.turn(check.group, asked, timeout=timeout, last=not coming)
        return Asked(check=check, folder=folder, process=turn)
    process = start(
        program("check", check.id, job), env=check_environment(), timeout=timeout, log=folder / "log"
    )
    return Asked(check=check, folder=folder, process=process)


def check_environment() -> dict[str, str]:
    """The caller's environment, all of it, so that variables for shared hardware reach every process.

    Added: no byte code is written beside read-only files, and output is not held back.
    """
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def _result(asked: Asked, ended: Ended) -> CheckResult:
    found = read_result(asked.folder / "answer.json")
    if ended.code != 0 or found is None:
        return _without_answer(asked, ended, found or {})
    status: Status = found["status"] if found["status"] in ("passed", "not-run") else "failed"
    return CheckResult(
        id=asked.check.id,
        reason=asked.check.reason,
        status=status,
        timeout=asked.process.timeout,
        seconds=ended.seconds,
        cause="answer" if status == "failed" else None,
        expected=found.get("expected"),
        seen=found.get("seen"),
        hint=found.get("hint"),
        warnings=tuple(found.get("warnings", ())),
        numbers=_mapping(found.get("numbers")),
        output="" if status == "passed" else tail(asked.folder / "log"),
    )


def _without_answer(asked: Asked, ended: Ended, found: Mapping[str, Any]) -> CheckResult:
    """A crash or a timeout: the check's own output, and that of its ranks, with the stacks of where they stood."""
    timed_out = ended.code is None
    logs = sorted((asked.folder / "scratch").glob("rank*.log"))
    described = ended.describe(asked.process.timeout)
    output = tail(asked.folder / "log") + "".join(f"\n--- {log.stem}\n{tail(log)}" for log in logs)
    return CheckResult(
        id=asked.check.id,
        reason=asked.check.reason,
        status="failed",
        timeout=asked.process.timeout,
        seconds=ended.seconds,
        cause="timeout" if timed_out else "crash",
        expected=f"an answer within {asked.process.timeout:g} s",
        seen=described,
        hint="the check's output below has the stacks of where it stood"
        if timed_out
        else hint_of(f"{described}\n{output}", "the check's output below ends with what it did last"),
        warnings=tuple(found.get("warnings", ())),
        numbers=_mapping(found.get("numbers")),
        output=output,
    )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
