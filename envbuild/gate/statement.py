"""The in-toto statement that is signed: a test result about an image, with the whole verdict inside."""

from __future__ import annotations

import hashlib
from typing import Final, Literal

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


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """in-toto's ResourceDescriptor: a name, and digests by algorithm in hex."""

    name: str
    digest: dict[str, str]


class Predicate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """in-toto's test result, version 0.1; ``envbuild`` is the whole verdict."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: tuple[Descriptor, ...]
    passed_tests: tuple[str, ...]
    warned_tests: tuple[str, ...]
    failed_tests: tuple[str, ...]
    envbuild: Verdict


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """in-toto's statement, version 1: what is signed."""

    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: tuple[Descriptor, ...]
    predicate_type: Literal["https://in-toto.io/attestation/test-result/v0.1"] = msgspec.field(
        name="predicateType"
    )
    predicate: Predicate


def statement_of(verdict: Verdict) -> Statement:
    """The statement about ``verdict``; everything in it follows from the verdict.

    The predicate knows passed, warned and failed. A ``candidate`` is ``FAILED`` here, so that no policy that looks
    for a result takes it for a pass; what was not run stands in none of the lists.
    """
    checks = verdict.checks
    warned = tuple(check.id for check in checks if check.status == "passed" and check.warnings)
    configuration = [
        Descriptor(name="expectations", digest={"sha256": _sha256(verdict.expectations)}),
        Descriptor(name="suite", digest={"sha256": verdict.suite.removeprefix("sha256:")}),
    ]
    if verdict.lock is not None:
        digest = {"sha256": verdict.lock.removeprefix("sha256:")}
        configuration.append(Descriptor(name="lock.json", digest=digest))
    return Statement(
        type=STATEMENT,
        predicate_type=PREDICATE,
        subject=_subjects(verdict),
        predicate=Predicate(
            result="FAILED" if verdict.result != "passed" else "WARNED" if warned else "PASSED",
            configuration=tuple(configuration),
            passed_tests=tuple(
                check.id for check in checks if check.status == "passed" and not check.warnings
            ),
            warned_tests=warned,
            failed_tests=tuple(check.id for check in checks if check.status == "failed"),
            envbuild=verdict,
        ),
    )


def _subjects(verdict: Verdict) -> tuple[Descriptor, ...]:
    subject = verdict.subject
    if subject is None:
        packages = _sha256(verdict.expectations.get("packages"))
        return (Descriptor(name=verdict.host.executable, digest={PACKAGES: packages}),)
    return tuple(
        Descriptor(name=f"{subject.ref}{part}", digest={"sha256": digest.removeprefix("sha256:")})
        for part, digest in (("", subject.manifest), ("#config", subject.config))
    )


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
    except (ValueError, RecursionError) as error:
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
    try:
        same = msgspec.json.decode(statement_bytes(verdict)) == value
    except (OverflowError, RecursionError, ValueError) as error:
        refuse("bad-verdict", f"the verdict holds what cannot be written again: {error}", where)
    if not same:
        refuse(
            "verdict-contradicts-itself",
            "the statement says something else than the verdict in it",
            where,
        )
    return verdict
