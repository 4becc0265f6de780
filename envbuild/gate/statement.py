"""The in-toto statement that is signed: a test result about an image, with the whole verdict inside."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from envbuild.gate.report import refuse
from envbuild.gate.verdict import Verdict, convert_verdict
from envbuild.oci.digest import canonical_json

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://in-toto.io/attestation/test-result/v0.1"
OWN: Final = "envbuild"
"""The predicate's key under which the verdict stands."""

PACKAGES: Final = "envbuildPackages"
"""The digest algorithm of a Python environment: SHA-256 over its packages and versions. No image has one."""


def statement_of(verdict: Verdict) -> dict[str, Any]:
    """The statement about ``verdict``; everything in it follows from the verdict.

    The predicate knows passed, warned and failed. A ``candidate`` is ``FAILED`` here, so that no policy that looks
    for a result takes it for a pass; what was not run stands in none of the lists.
    """
    checks = verdict.checks
    warned = [check.id for check in checks if check.status == "passed" and check.warnings]
    result = "FAILED" if verdict.result != "passed" else "WARNED" if warned else "PASSED"
    configuration = [
        {"name": "expectations", "digest": {"sha256": _sha256(verdict.expectations)}},
        {"name": "suite", "digest": {"sha256": verdict.suite.removeprefix("sha256:")}},
    ]
    if verdict.lock is not None:
        configuration.append(
            {"name": "lock.json", "digest": {"sha256": verdict.lock.removeprefix("sha256:")}}
        )
    value = {
        "_type": STATEMENT,
        "subject": _subjects(verdict),
        "predicateType": PREDICATE,
        "predicate": {
            "result": result,
            "configuration": configuration,
            "passedTests": [c.id for c in checks if c.status == "passed" and not c.warnings],
            "warnedTests": warned,
            "failedTests": [c.id for c in checks if c.status == "failed"],
            OWN: verdict.to_dict(),
        },
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return plain


def _subjects(verdict: Verdict) -> list[dict[str, Any]]:
    subject = verdict.subject
    if subject is None:
        return [
            {
                "name": verdict.host.executable,
                "digest": {PACKAGES: _sha256(verdict.expectations.get("packages"))},
            }
        ]
    return [
        {"name": f"{subject.ref}{part}", "digest": {"sha256": digest.removeprefix("sha256:")}}
        for part, digest in (("", subject.manifest), ("#config", subject.config))
    ]


def _sha256(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def statement_bytes(verdict: Verdict) -> bytes:
    """The payload: compact JSON."""
    return msgspec.json.encode(statement_of(verdict))


def parse_statement(payload: bytes, *, where: str) -> Verdict:
    """Read a payload whose signature was checked.

    Raises:
        EnvbuildError: exit 6: another statement or predicate, no verdict in it, or one that says something else than
            the statement around it.
    """
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        refuse("bad-verdict", f"the signed content is no JSON: {error}", where)
    if not isinstance(value, dict) or value.get("_type") != STATEMENT:
        refuse("bad-verdict", f"the signed content is no in-toto statement ({STATEMENT})", where)
    if value.get("predicateType") != PREDICATE:
        refuse(
            "bad-verdict",
            f"the statement's predicate is {value.get('predicateType')!r}; a verdict's is {PREDICATE!r}",
            where,
        )
    predicate = value.get("predicate")
    if not isinstance(predicate, dict) or OWN not in predicate:
        refuse("bad-verdict", "the test result is not one of envbuild's: it holds no verdict", where)
    verdict = convert_verdict(predicate[OWN], where=where)
    if statement_of(verdict) != value:
        refuse(
            "verdict-contradicts-itself",
            "the statement says something else than the verdict in it",
            where,
        )
    return verdict
