"""The gate: run the suite in a candidate, make a verdict of its report, sign it, and decide about the tag."""

from __future__ import annotations

from envbuild.gate.expect import expect
from envbuild.gate.here import find_python, run_here
from envbuild.gate.keys import PublicKey, SigningKey, keys_in, known_key, signing_key, trusted_keys
from envbuild.gate.promote import Terms, compare, promote, require_image
from envbuild.gate.report import Report, parse_report
from envbuild.gate.signed import SignedVerdict, read_signed, read_verdict, sign_verdict, write_verdict
from envbuild.gate.suite import run_suite, stage, suite_command
from envbuild.gate.verdict import Subject, Verdict, make_verdict, subject_of

__all__ = [
    "PublicKey",
    "Report",
    "SignedVerdict",
    "SigningKey",
    "Subject",
    "Terms",
    "Verdict",
    "compare",
    "expect",
    "find_python",
    "keys_in",
    "known_key",
    "make_verdict",
    "parse_report",
    "promote",
    "read_signed",
    "read_verdict",
    "require_image",
    "run_here",
    "run_suite",
    "sign_verdict",
    "signing_key",
    "stage",
    "subject_of",
    "suite_command",
    "trusted_keys",
    "write_verdict",
]
