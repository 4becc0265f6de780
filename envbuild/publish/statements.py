"""in-toto statements about a published image (in-toto attestation framework, Statement v1): what is signed."""

from __future__ import annotations

import msgspec

from envbuild.oci.digest import canonical_json

STATEMENT = "https://in-toto.io/Statement/v1"
"""The type of every statement."""

PREDICATE = "https://cyclonedx.org/bom"
"""The predicate type of a bill of materials in CycloneDX; cosign knows it as ``--type cyclonedx``."""


def statement(predicate: object, *, predicate_type: str, name: str, digest: str) -> dict[str, object]:
    """A statement as plain values.

    Args:
        predicate: what is said.
        predicate_type: what kind of thing that is, a URI.
        name: the image's name; nothing depends on it.
        digest: the sha256 digest of the image's manifest, which is what the statement is about.
    """
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def sbom_statement(bill: bytes, *, name: str, digest: str) -> bytes:
    """The statement that ``bill`` (:func:`envbuild.publish.sbom.sbom`) is the image's; the payload to sign.

    The same arguments give the same bytes.
    """
    predicate = msgspec.json.decode(bill)
    return canonical_json(statement(predicate, predicate_type=PREDICATE, name=name, digest=digest))
