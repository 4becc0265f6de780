"""Run the checks, as many at a time as disturb nothing, and make the report."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import FORMAT, gpus, host
from .asking import Asked, ask, check_environment
from .checks import Check, applicable
from .fingerprint import fingerprint
from .hosting import Hosts
from .model import CheckResult, Expectations, Outcome
from .schedule import following, jobs_for

Say = Callable[[str], None]

PAUSE = 0.02
"""Seconds between two looks at what runs."""


def run_suite(
    expectations: Expectations,
    *,
    say: Say,
    only: Sequence[str] = (),
    limit: float | None = None,
    jobs: int | None = None,
) -> dict[str, object]:
    """Put every question and return the report (docs/reference/suite.md describes it).

    Args:
        expectations: what must be true.
        say: takes one line of progress at a time: ``[3/12] ID: REASON`` when a check starts; when it ends
            ``    ID: passed in 1.2 s``, ``    ID: not run: REASON`` or ``    ID: FAILED in 1.2 s``, and after that its
            details and warnings, indented deeper.
        only: ids to run; the others get ``not-run``, so that the result cannot be a pass. Empty: all.
        limit: cap of every check's time limit, in seconds.
        jobs: how many checks may run at a time; by default as the processors allow.
    """
    started = datetime.datetime.now(datetime.UTC)
    clock = time.monotonic()
    nodes = gpus.present()
    count = max(nodes, expectations.gpus_given or 0)
    results, pending = _sort_out(applicable(expectations), count, only)
    for result in results.values():
        for line in tell(result):
            say(line)

    hosts = Hosts(environ=check_environment())

    def put(check: Check, waiting: Sequence[Check]) -> Asked:
        timeout = min(check.timeout, limit) if limit else check.timeout
        coming = [other.id for other in waiting if check.group and other.group == check.group]
        return ask(check, expectations, gpus=count, nodes=nodes, timeout=timeout, hosts=hosts, coming=coming)

    try:
        answers = _run(pending, put, say=say, jobs=jobs or jobs_for(len(os.sched_getaffinity(0))))
    finally:
        hosts.close()
    results |= {result.id: result for result in answers}
    ordered = [results[check.id] for check in applicable(expectations)]
    outcome, why = judge(expectations, ordered)
    say(f"{outcome}: {why}")
    return {
        "format": FORMAT,
        "suite": fingerprint(),
        "result": outcome,
        "why": why,
        "started": started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "seconds": round(time.monotonic() - clock, 3),
        "expectations": expectations.to_dict(),
        "host": host.describe(_driver(ordered)),
        "gpus": gpu_list(ordered),
        "environment": host.environment(),
        "checks": [result.to_dict() for result in ordered],
    }


def _run(
    pending: Sequence[Check], put: Callable[[Check, Sequence[Check]], Asked], *, say: Say, jobs: int
) -> list[CheckResult]:
    """Put the questions, each as soon as what runs allows it. However this is left, nothing runs any more."""
    waiting, running = list(pending), list[Asked]()
    results: list[CheckResult] = []
    try:
        while waiting or running:
            check = following(waiting, [asked.check for asked in running], jobs)
            if check is not None:
                waiting.remove(check)
                say(f"[{len(pending) - len(waiting)}/{len(pending)}] {check.id}: {check.reason}")
                running.append(put(check, waiting))
                continue
            ended = [(asked, result) for asked in running if (result := asked.poll()) is not None]
            for asked, result in ended:
                running.remove(asked)
                results.append(result)
                for line in tell(result):
                    say(line)
            if not ended:
                time.sleep(PAUSE)
    finally:
        for asked in running:
            asked.end()
    return results


def _sort_out(
    checks: Sequence[Check], count: int, only: Sequence[str]
) -> tuple[dict[str, CheckResult], list[Check]]:
    """What cannot or shall not be asked here, with the reason; and the rest."""
    results: dict[str, CheckResult] = {}
    pending: list[Check] = []
    for check in checks:
        reason = _why_not(check, count, only)
        if reason is None:
            pending.append(check)
        else:
            results[check.id] = CheckResult(
                id=check.id, reason=check.reason, status="not-run", timeout=check.timeout, seen=reason
            )
    return results, pending


def _why_not(check: Check, count: int, only: Sequence[str]) -> str | None:
    if only and check.id not in only:
        return "not asked for"
    if check.needs != "cpu" and count == 0:
        return "no GPU here (/dev/nvidia0 does not exist)"
    if check.needs == "gpus" and count == 1:
        return "it needs two GPUs, and one is here"
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
    warnings = [f"        warning: {_indented(text)}" for text in result.warnings]
    if result.status == "passed":
        return [f"    {result.id}: passed in {result.seconds:.1f} s", *warnings]
    if result.status == "not-run":
        return [f"    {result.id}: not run: {result.seen}", *warnings]
    details = (("expected", result.expected), ("seen", result.seen), ("hint", result.hint))
    return [
        f"    {result.id}: FAILED in {result.seconds:.1f} s",
        *(f"        {name:>8}: {_indented(text)}" for name, text in details if text),
        *warnings,
    ]


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 18)


def to_stderr(line: str) -> None:
    """Say one line where it does not mix with data."""
    print(line, file=sys.stderr, flush=True)
