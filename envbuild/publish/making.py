"""The proofs of one image, made: its lock as it is, SBOM and provenance signed here, the verdict as it was signed."""

from __future__ import annotations

from envbuild import __version__
from envbuild.gate.envelope import seal
from envbuild.gate.keys import SigningKey
from envbuild.gate.statement import PREDICATE as TEST_RESULT
from envbuild.lock.file import lock_bytes
from envbuild.lock.model import Lock
from envbuild.oci.digest import canonical_json
from envbuild.oci.image import Image
from envbuild.publish.proofs import CYCLONEDX, LOCK, Proof, signed_proof
from envbuild.publish.provenance import PREDICATE as PROVENANCE
from envbuild.publish.provenance import provenance
from envbuild.publish.sbom import sbom
from envbuild.publish.sigstore import to_bundles
from envbuild.publish.statements import PREDICATE as SBOM
from envbuild.publish.statements import sbom_statement
from envbuild.registry.reference import Repository


def make_proofs(
    lock: Lock,
    image: Image,
    *,
    repository: Repository,
    key: SigningKey,
    verdict: bytes | None,
    moved_from: str | None,
) -> list[Proof]:
    """What is attached to the image. The same arguments give the same bytes, so that publishing again adds nothing.

    Args:
        lock: the image's, built.
        image: what the proofs are about.
        repository: where it is published.
        key: signs SBOM and provenance.
        verdict: a signed verdict's file, or ``None``.
        moved_from: the digest that the tag is moved away from.
    """
    bill = sbom(lock)
    about = provenance(
        lock,
        name=str(repository),
        digest=image.digest,
        builder_version=__version__,
        moved_from=moved_from,
    )
    proofs = [
        Proof(artifact_type=LOCK, data=lock_bytes(lock)),
        Proof(artifact_type=CYCLONEDX, data=bill),
    ]
    signed = [
        (seal(sbom_statement(bill, name=str(repository), digest=image.digest), key), SBOM),
        (seal(canonical_json(about), key), PROVENANCE),
    ]
    return [*proofs, *bundles(signed), *verdict_proofs(verdict)]


def bundles(envelopes: list[tuple[bytes, str]]) -> list[Proof]:
    """Each envelope as Sigstore bundles, one for each signature."""
    return [
        signed_proof(data, predicate) for envelope, predicate in envelopes for data in to_bundles(envelope)
    ]


def verdict_proofs(verdict: bytes | None) -> list[Proof]:
    """A signed verdict's file as bundles; none where there is no verdict."""
    return bundles([(verdict, TEST_RESULT)]) if verdict is not None else []
