"""The gate: run the suite in a candidate, make a verdict of its report, and decide about the tag."""

from __future__ import annotations

from envbuild.gate.expect import expect
from envbuild.gate.promote import compare, promote
from envbuild.gate.report import Report, parse_report
from envbuild.gate.suite import run_suite, stage, suite_command
from envbuild.gate.verdict import (
    Subject,
    Verdict,
    make_verdict,
    parse_verdict,
    read_verdict,
    subject_of,
    verdict_bytes,
    write_verdict,
)

__all__ = [
    "Report",
    "Subject",
    "Verdict",
    "compare",
    "expect",
    "make_verdict",
    "parse_report",
    "parse_verdict",
    "promote",
    "read_verdict",
    "run_suite",
    "stage",
    "subject_of",
    "suite_command",
    "verdict_bytes",
    "write_verdict",
]
