"""Run the checks one after another, each in its own process, and make the report."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import FORMAT, gpus, host
from .checks import Check, applicable
from .context import Context, program, read_result, write_job
from .fingerprint import fingerprint
from .model import CheckResult, Expectations, Outcome, Status
from .process import finish, tail

Say = Callable[[str], None]


def run_suite(
    expectations: Expectations,
    *,
    say: Say,
    only: Sequence[str] = (),
    limit: float | None = None,
) -> dict[str, object]:
    """Put every question and return the report (docs/reference/suite.md describes it).

    Args:
        expectations: what must be true.
        say: takes one line of progress at a time.
        only: ids to run; the others get ``not-run``, so that the result cannot be a pass. Empty: all.
        limit: cap of every check's time limit, in seconds.
    """
    started = datetime.datetime.now(datetime.UTC)
    clock = time.monotonic()
    count = max(gpus.present(), expectations.gpus_given or 0)
    checks = applicable(expectations)
    results: list[CheckResult] = []
    for number, check in enumerate(checks, 1):
        say(f"[{number}/{len(checks)}] {check.id}: {check.reason}")
        reason = _why_not(check, count, only)
        result = (
            CheckResult(
                id=check.id, reason=check.reason, status="not-run", timeout=check.timeout, seen=reason
            )
            if reason
            else _run_check(check, expectations, count, limit)
        )
        for line in tell(result):
            say(line)
        results.append(result)
    outcome, why = judge(expectations, results)
    say(f"{outcome}: {why}")
    return {
        "format": FORMAT,
        "suite": fingerprint(),
        "result": outcome,
        "why": why,
        "started": started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "seconds": round(time.monotonic() - clock, 3),
        "expectations": expectations.to_dict(),
        "host": host.describe(_driver(results)),
        "gpus": gpu_list(results),
        "environment": host.environment(),
        "checks": [result.to_dict() for result in results],
    }


def _why_not(check: Check, count: int, only: Sequence[str]) -> str | None:
    if only and check.id not in only:
        return "not asked for"
    if check.gpu and count == 0:
        return "no GPU here (/dev/nvidia0 does not exist)"
    return None


def judge(expectations: Expectations, results: Sequence[CheckResult]) -> tuple[Outcome, str]:
    """The suite's answer, and why in one line. Only a full run on enough GPUs is ``passed``."""
    failed = [result.id for result in results if result.status == "failed"]
    if failed:
        return "failed", f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}"
    missing = [result.id for result in results if result.status != "passed"]
    seen, wanted = len(gpu_list(results)), expectations.gpus_wanted
    if seen < wanted:
        return (
            "candidate",
            f"nothing failed, but {_gpus(wanted)} {_be(wanted)} wanted and {_gpus(seen)} {_be(seen)} here; "
            f"not run: {', '.join(missing) or 'none'}",
        )
    if missing or len(results) != len(applicable(expectations)):
        return "candidate", f"nothing failed, but these were not run: {', '.join(missing)}"
    return "passed", f"all {len(results)} checks passed on {_gpus(seen)}"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def gpu_list(results: Sequence[CheckResult]) -> list[Any]:
    """The GPUs on which torch computed, as ``cuda-available`` saw them."""
    for result in results:
        if result.id == "cuda-available":
            found = result.numbers.get("gpus", [])
            return found if isinstance(found, list) else []
    return []


def _driver(results: Sequence[CheckResult]) -> str | None:
    for result in results:
        if result.id == "cuda-available" and isinstance(found := result.numbers.get("driver"), str):
            return found
    return None


def tell(result: CheckResult) -> list[str]:
    """What a person reads of one answer."""
    if result.status == "passed":
        return [f"    passed in {result.seconds:.1f} s"]
    if result.status == "not-run":
        return [f"    not run: {result.seen}"]
    return [
        f"    FAILED in {result.seconds:.1f} s",
        *(
            f"    {name:>8}: " + text.replace("\n", "\n" + " " * 14)
            for name, text in (
                ("expected", result.expected),
                ("seen", result.seen),
                ("hint", result.hint),
            )
            if text
        ),
    ]


def _run_check(check: Check, expectations: Expectations, count: int, limit: float | None) -> CheckResult:
    timeout = min(check.timeout, limit) if limit else check.timeout
    folder = Path(tempfile.mkdtemp(prefix=f"envbuild-{check.id}-"))
    try:
        return _run_in(folder, check, expectations, count, timeout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_in(
    folder: Path, check: Check, expectations: Expectations, count: int, timeout: float
) -> CheckResult:
    scratch = folder / "scratch"
    scratch.mkdir()
    context = Context(check=check.id, expectations=expectations, scratch=scratch, timeout=timeout, gpus=count)
    job, answer, log = folder / "job.json", folder / "answer.json", folder / "log"
    write_job(job, context, result=answer)
    ended = finish(program("check", check.id, job), env=check_environment(), timeout=timeout, log=log)
    found = read_result(answer)
    output = tail(log)
    if ended.code != 0 or found is None:
        timed_out = ended.code is None
        return CheckResult(
            id=check.id,
            reason=check.reason,
            status="failed",
            timeout=timeout,
            seconds=ended.seconds,
            cause="timeout" if timed_out else "crash",
            expected=f"an answer within {timeout:g} s",
            seen=ended.describe(timeout),
            hint="the check's output below has the stacks of where it stood"
            if timed_out
            else "the check's output below ends with what it did last",
            numbers=_mapping(found.get("numbers")) if found else {},
            output=output,
        )
    status: Status = found["status"] if found["status"] in ("passed", "not-run") else "failed"
    return CheckResult(
        id=check.id,
        reason=check.reason,
        status=status,
        timeout=timeout,
        seconds=ended.seconds,
        cause="answer" if status == "failed" else None,
        expected=found.get("expected"),
        seen=found.get("seen"),
        hint=found.get("hint"),
        numbers=_mapping(found.get("numbers")),
        output="" if status == "passed" else output,
    )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def check_environment() -> dict[str, str]:
    """The caller's environment, all of it, so that variables for shared hardware reach every process.

    Added: no byte code is written beside read-only files, and output is not held back.
    """
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def to_stderr(line: str) -> None:
    """Say one line where it does not mix with data."""
    print(line, file=sys.stderr, flush=True)
