"""The verdict: the suite's answer about one image, with the evidence."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from envbuild.gate.fields import Digest, ImageRef, Line, Name, Seconds, Time, moment
from envbuild.gate.report import CheckRecord, Gpu, Host, Outcome, Report, contradiction, refuse
from envbuild.oci.image import Image
from envbuild.plain import visible
from envbuild.smoke.fingerprint import fingerprint
from envbuild.smoke.model import BadExpectations, Expectations, parse_expectations

KIND: Final = "envbuild.verdict"
FORMAT: Final = 2
"""The content's format number. 1 had no signature around it, no ``lock`` and no warnings."""


class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the verdict is about: an engine that loaded the image knows only config and diff_ids."""

    ref: ImageRef
    manifest: Digest
    config: Digest
    diff_ids: tuple[Digest, ...]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The suite's answer about one image (docs/reference/verdict.md).

    ``subject`` is ``None`` where the suite ran in a Python environment: such a verdict is about no image.
    ``suite`` is the hash of the questions, ``expectations`` what they were asked against, ``engine`` what ran the
    container. ``lock`` is the digest of the lock's bytes (``None``: there was no lock). ``seconds`` is the suite's
    wall time, ``started`` its RFC 3339 time in UTC.
    """

    kind: Literal["envbuild.verdict"]
    format: Literal[2]
    subject: Subject | None
    result: Outcome
    why: Line
    suite: Digest
    engine: Line
    lock: Digest | None
    driver: Line | None
    gpus: tuple[Gpu, ...]
    host: Host
    environment: dict[Name, str]
    started: Time
    seconds: Seconds
    expectations: dict[str, Any]
    checks: tuple[CheckRecord, ...]

    @property
    def expected(self) -> Expectations:
        """The expectations, parsed."""
        return parse_expectations(self.expectations)

    def to_dict(self) -> dict[str, object]:
        """The JSON object; :func:`convert_verdict` is the inverse."""
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


def make_verdict(
    report: Report, subject: Subject | None, *, expected: Expectations, engine: str, lock: str | None
) -> Verdict:
    """Bind a report to the image in whose container it was made.

    Args:
        report: what the suite in the container wrote.
        subject: the image that the engine was told to run; ``None`` where it was no image.
        expected: the expectations that were handed in; the report must be about these.
        engine: the engine's name and version.
        lock: the digest of the lock's bytes, or ``None`` where the suite did not run in an image.

    Raises:
        EnvbuildError: exit 6 when the report is of another suite or of other expectations.
    """
    where = "here" if subject is None else subject.ref
    if report.suite != fingerprint():
        refuse(
            "report-of-another-suite",
            f"the report was made by the suite {report.suite}; this envbuild's is {fingerprint()}",
            where,
        )
    if report.expected != expected:
        refuse(
            "report-of-other-expectations",
            "the report answers other expectations than recipe and lock give: "
            + ", ".join(differences(report.expected, expected)),
            where,
        )
    return Verdict(
        kind=KIND,
        format=FORMAT,
        subject=subject,
        result=report.result,
        why=report.why,
        suite=report.suite,
        engine=visible(engine),
        lock=lock,
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


def convert_verdict(value: object, *, where: str) -> Verdict:
    """Make a parsed JSON value a verdict.

    Raises:
        EnvbuildError: exit 6: no verdict, another format, an unknown or missing key, or a result that its checks do
            not bear out.
    """
    try:
        verdict = msgspec.convert(value, type=Verdict)
        expectations = verdict.expected
        moment(verdict.started)
    except (ValueError, BadExpectations) as error:  # msgspec's own is a ValueError
        refuse("bad-verdict", f"this is no verdict that envbuild can read: {error}", where)
    problem = contradiction(
        verdict.result,
        verdict.checks,
        len(verdict.gpus),
        expectations,
        earlier=verdict.suite != fingerprint(),
    )
    if problem:
        refuse("verdict-contradicts-itself", f"the verdict says {verdict.result!r}, but {problem}", where)
    return verdict
