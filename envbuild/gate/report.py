"""The suite's report, read strictly: a report that contradicts itself is refused."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import msgspec

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.fields import CheckId, Count, Digest, Line, Name, Seconds, Time, moment
from envbuild.oci.document import bounded
from envbuild.smoke import FORMAT
from envbuild.smoke.checks import applicable
from envbuild.smoke.model import BadExpectations, Expectations, parse_expectations

Outcome = Literal["passed", "candidate", "failed"]


class CheckRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One check's answer, as the suite wrote it. Times are in seconds."""

    id: CheckId
    reason: Line
    status: Literal["passed", "failed", "not-run"]
    timeout: Seconds
    seconds: Seconds
    cause: Literal["answer", "crash", "timeout"] | None
    expected: str | None
    seen: str | None
    hint: str | None
    numbers: dict[str, Any]
    warnings: tuple[str, ...]
    output: str


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU as torch saw it. ``memory`` is in bytes; ``torch`` and ``operator`` say how their code reaches it."""

    index: Count
    name: Name
    uuid: Name
    capability: tuple[Count, Count]
    memory: Count
    processors: Count
    torch: Literal["machine code", "PTX"] | None
    operator: Literal["machine code", "PTX"] | None = None


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine as the container saw it. ``memory`` and ``shm`` in bytes; ``gpus`` as the kernel shows them."""

    kernel: Line
    machine: Line
    system: Line | None
    libc: Line
    python: Line
    executable: Line
    cpus: Count
    memory: Count
    shm: Count | None
    gpus: Count
    driver: Line | None


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole report, format 1 (docs/reference/suite.md)."""

    format: int
    suite: Digest
    result: Outcome
    why: Line
    started: Time
    seconds: Seconds
    expectations: dict[str, Any]
    host: Host
    gpus: tuple[Gpu, ...]
    environment: dict[Name, str]
    checks: tuple[CheckRecord, ...]

    @property
    def expected(self) -> Expectations:
        """The expectations that the suite worked from."""
        return parse_expectations(self.expectations)


def parse_report(data: bytes, *, where: str) -> Report:
    """Read a report.

    Args:
        data: the JSON text.
        where: what to call it in an error.

    Raises:
        EnvbuildError: exit 6: not JSON, another format, an unknown or missing key, or a result that the checks do
            not bear out.
    """
    try:
        with bounded():
            report = msgspec.json.decode(data, type=Report)
        expectations = report.expected
        moment(report.started)
    except (ValueError, BadExpectations, RecursionError) as error:
        refuse("bad-report", f"the suite's report cannot be read: {error}", where)
    if report.format != FORMAT:
        refuse("bad-report", f"the report has format {report.format}; this envbuild reads {FORMAT}", where)
    problem = contradiction(report.result, report.checks, len(report.gpus), expectations)
    if problem:
        refuse("report-contradicts-itself", f"the report says {report.result!r}, but {problem}", where)
    return report


def contradiction(
    result: Outcome,
    checks: tuple[CheckRecord, ...],
    gpus: int,
    expectations: Expectations,
    *,
    earlier: bool = False,
) -> str | None:
    """Why a result does not follow from its checks, or ``None`` when it does.

    Only one thing is a pass: every check that the expectations call for ran once, passed, and the GPUs suffice. What an
    ``earlier`` suite asked is what it has answers to; promoting takes its verdict only where the suite is named.
    """
    failed = sorted(check.id for check in checks if check.status == "failed")
    if failed and result != "failed":
        return f"{', '.join(failed)} failed"
    if result == "failed" and not failed:
        return "no check failed"
    if result != "passed":
        return None
    wanted = sorted({check.id for check in (checks if earlier else applicable(expectations))})
    seen = sorted(check.id for check in checks if check.status == "passed")
    if seen != wanted or not seen:
        return _difference(seen, wanted)
    if gpus < expectations.gpus_wanted:
        return f"it saw {gpus} GPUs where {expectations.gpus_wanted} are wanted"
    return None


def _difference(seen: list[str], wanted: list[str]) -> str:
    missing = [name for name in wanted if name not in seen]
    further = [name for name in seen if name not in wanted]
    if missing:
        return f"these checks have no pass: {', '.join(missing)}"
    if further:
        return f"nobody asked for {', '.join(further)}"
    return "it has checks twice" if seen else "no check ran"


def refuse(id: str, message: str, where: str) -> NoReturn:
    """Refuse a report or verdict (exit 6)."""
    raise EnvbuildError(
        id,
        message,
        where=where,
        hint="make a new one: run `envbuild smoke REF` on a machine with GPUs",
        exit=Exit.GATE,
    )
