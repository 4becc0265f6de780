"""Which of the attached proofs are believed: those that a trusted key signed, about this very image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.envelope import open_envelope
from envbuild.gate.keys import PublicKey
from envbuild.gate.signed import SignedVerdict, parse_signed
from envbuild.gate.statement import PREDICATE as TEST_RESULT
from envbuild.oci.document import read_json
from envbuild.publish.proofs import BUNDLE, Proof
from envbuild.publish.provenance import PREDICATE as PROVENANCE
from envbuild.publish.sigstore import from_bundle

LOCK_FILE = "lock.json"
"""How a provenance names the lock among what the image was made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """An in-toto statement, and the trusted keys that signed it."""

    statement: dict[str, Any]
    keys: tuple[PublicKey, ...]

    @property
    def predicate(self) -> dict[str, Any]:
        """What it says."""
        value = self.statement.get("predicate")
        return value if isinstance(value, dict) else {}

    def is_about(self, digest: str) -> bool:
        """Whether the image of that digest is among its subjects."""
        subjects = self.statement.get("subject")
        return isinstance(subjects, list) and any(
            isinstance(item, dict)
            and isinstance(item.get("digest"), dict)
            and item["digest"].get("sha256") == digest.removeprefix("sha256:")
            for item in subjects
        )


def bundles_of(proofs: Sequence[Proof], predicate: str) -> Iterator[Proof]:
    """The bundles whose annotations say that they hold a statement of that predicate type."""
    return (proof for proof in proofs if proof.artifact_type == BUNDLE and proof.predicate == predicate)


def believe(proof: Proof, trusted: Sequence[PublicKey], predicate: str) -> Believed:
    """Open a bundle.

    Raises:
        EnvbuildError: exit 5: no bundle, not signed by a trusted key, changed after signing, another statement.
    """
    where = str(proof.referrer)
    try:
        opened = open_envelope(from_bundle(proof.data, where=where), trusted, where=where)
        statement = read_json(opened.payload)
    except EnvbuildError as error:
        raise _not_believed(error.message.replace("the verdict", "it"), where) from error
    except (ValueError, RecursionError):  # msgspec's own, and UnicodeDecodeError
        raise _not_believed("what is signed is no JSON", where) from None
    if not isinstance(statement, dict) or statement.get("predicateType") != predicate:
        raise _not_believed(f"what is signed is no statement of the kind {predicate}", where)
    return Believed(statement=statement, keys=opened.keys)


def signed_verdicts(
    proofs: Sequence[Proof], trusted: Sequence[PublicKey], *, where: str
) -> tuple[list[SignedVerdict], list[EnvbuildError]]:
    """The attached verdicts that are believed, and why the others are not."""
    found, refused = [], []
    for proof in bundles_of(proofs, TEST_RESULT):
        try:
            envelope = from_bundle(proof.data, where=where)
            found.append(parse_signed(envelope, trusted=trusted, where=f"{where} ({proof.referrer})"))
        except EnvbuildError as error:
            refused.append(error)
    return found, refused


def signed_lock_digests(proofs: Sequence[Proof], digest: str, trusted: Sequence[PublicKey]) -> frozenset[str]:
    """The digests of the locks that believed provenances name as what the image ``digest`` was made of."""
    found = set()
    for proof in bundles_of(proofs, PROVENANCE):
        try:
            believed = believe(proof, trusted, PROVENANCE)
        except EnvbuildError:
            continue
        if believed.is_about(digest):
            found |= set(locks_named(believed))
    return frozenset(found)


def locks_named(provenance: Believed) -> Iterator[str]:
    """The digests under the name ``lock.json`` among a provenance's resolved dependencies."""
    definition = provenance.predicate.get("buildDefinition")
    dependencies = definition.get("resolvedDependencies") if isinstance(definition, dict) else None
    for item in dependencies if isinstance(dependencies, list) else ():
        if isinstance(item, dict) and item.get("name") == LOCK_FILE and isinstance(item.get("digest"), dict):
            yield f"sha256:{item['digest'].get('sha256')}"


def _not_believed(what: str, where: str) -> EnvbuildError:
    return EnvbuildError(
        "proof-not-believed",
        what,
        where=where,
        hint="give the publisher's public key with --key PEM (`envbuild key show` prints it there)",
        exit=Exit.VERIFY,
    )
