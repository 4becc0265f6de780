"""The verdict: the suite's answer about one image, with the evidence."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.report import CheckRecord, Gpu, Host, Outcome, Report, contradiction, refuse
from envbuild.oci.image import Image
from envbuild.smoke.fingerprint import fingerprint
from envbuild.smoke.model import BadExpectations, Expectations, parse_expectations

KIND: Final = "envbuild.verdict"
FORMAT: Final = 1
"""The file's format number. A signature will wrap this content and not change it."""


class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the verdict is about: an engine that loaded the image knows only config and diff_ids."""

    ref: str
    manifest: str
    config: str
    diff_ids: tuple[str, ...]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The suite's answer about one image (docs/reference/verdict.md).

    ``suite`` is the hash of the questions, ``expectations`` what they were asked against, ``engine`` what ran the
    container. ``seconds`` is the suite's wall time, ``started`` its RFC 3339 time in UTC.
    """

    kind: Literal["envbuild.verdict"]
    format: Literal[1]
    subject: Subject
    result: Outcome
    why: str
    suite: str
    engine: str
    driver: str | None
    gpus: tuple[Gpu, ...]
    host: Host
    environment: dict[str, str]
    started: str
    seconds: float
    expectations: dict[str, Any]
    checks: tuple[CheckRecord, ...]

    @property
    def expected(self) -> Expectations:
        """The expectations, parsed."""
        return parse_expectations(self.expectations)

    def to_dict(self) -> dict[str, object]:
        """The JSON object; :func:`parse_verdict` is the inverse."""
        value: dict[str, object] = msgspec.to_builtins(self)
        return value


def subject_of(ref: str, image: Image) -> Subject:
    """The subject that ``image`` under ``ref`` is."""
    return Subject(
        ref=ref,
        manifest=image.digest,
        config=image.config.digest,
        diff_ids=tuple(layer.diff_id for layer in image.layers),
    )


def make_verdict(report: Report, subject: Subject, *, expected: Expectations, engine: str) -> Verdict:
    """Bind a report to the image in whose container it was made.

    Args:
        report: what the suite in the container wrote.
        subject: the image that the engine was told to run.
        expected: the expectations that were handed in; the report must be about these.
        engine: the engine's name and version.

    Raises:
        EnvbuildError: exit 6 when the report is of another suite or of other expectations.
    """
    if report.suite != fingerprint():
        refuse(
            "report-of-another-suite",
            f"the report was made by the suite {report.suite}; this envbuild's is {fingerprint()}",
            subject.ref,
        )
    if report.expected != expected:
        refuse(
            "report-of-other-expectations",
            "the report answers other expectations than recipe and lock give: "
            + ", ".join(differences(report.expected, expected)),
            subject.ref,
        )
    return Verdict(
        kind=KIND,
        format=FORMAT,
        subject=subject,
        result=report.result,
        why=report.why,
        suite=report.suite,
        engine=engine,
        driver=report.host.driver,
        gpus=report.gpus,
        host=report.host,
        environment=report.environment,
        started=report.started,
        seconds=report.seconds,
        expectations=report.expectations,
        checks=report.checks,
    )


def differences(seen: Expectations, wanted: Expectations) -> list[str]:
    """The keys in which two expectations differ."""
    left, right = seen.to_dict(), wanted.to_dict()
    return sorted(key for key in left if left[key] != right[key])


def verdict_bytes(verdict: Verdict) -> bytes:
    """The file's content: JSON, indented, deterministic."""
    return (json.dumps(verdict.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_verdict(data: bytes, *, where: str) -> Verdict:
    """Read a verdict.

    Raises:
        EnvbuildError: exit 6: no verdict, another format, an unknown or missing key, or a result that its checks do
            not bear out.
    """
    try:
        verdict = msgspec.json.decode(data, type=Verdict)
        expectations = verdict.expected
    except (msgspec.DecodeError, msgspec.ValidationError, BadExpectations) as error:
        refuse("bad-verdict", f"this is no verdict that envbuild can read: {error}", where)
    problem = contradiction(verdict.result, verdict.checks, len(verdict.gpus), expectations)
    if problem:
        refuse("verdict-contradicts-itself", f"the verdict says {verdict.result!r}, but {problem}", where)
    return verdict


def read_verdict(path: Path) -> Verdict:
    """Read a verdict's file.

    Raises:
        EnvbuildError: exit 6, as :func:`parse_verdict`, or when the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EnvbuildError(
            "no-verdict",
            f"the verdict cannot be read: {error.strerror}",
            where=str(path),
            hint="`envbuild smoke REF --report FILE` makes one, on a machine with GPUs",
            exit=Exit.GATE,
        ) from error
    return parse_verdict(data, where=str(path))


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Write a verdict's file; it is complete or not there. A device or pipe is written to, never replaced.

    Raises:
        EnvbuildError: exit 2 when it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(verdict_bytes(verdict))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(verdict_bytes(verdict))
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise EnvbuildError(
            "verdict-not-written",
            f"the verdict cannot be written: {error.strerror}",
            where=str(path),
            hint="choose another file with --report",
            exit=Exit.USAGE,
        ) from error
