"""What is attached to an image: its lock, SBOM, provenance and verdict, as OCI referrers.

The signed ones are Sigstore bundles, found as cosign finds them: by the artifact type, and the annotations that
name what is in one. SBOM and lock also lie there as they are, for tools that look for these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import Descriptor
from envbuild.oci.digest import is_digest
from envbuild.oci.document import read_json
from envbuild.progress import Progress
from envbuild.registry.remote import Attachment, Remote

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
CYCLONEDX = "application/vnd.cyclonedx+json"
LOCK = "application/vnd.envbuild.lock.v2+json"

CONTENT = "dev.sigstore.bundle.content"
PREDICATE = "dev.sigstore.bundle.predicateType"

_KNOWN = (BUNDLE, CYCLONEDX, LOCK)
_LARGEST = 64 << 20
_MOST = 64
"""How many referrers of one image are read: more is no image of ours, and somebody may have attached anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One file to attach, or that was attached. ``referrer`` is the manifest that attaches it, once it is there."""

    artifact_type: str
    data: bytes = field(repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict)
    referrer: str | None = None

    @property
    def predicate(self) -> str | None:
        """The predicate type that the annotations name; nobody vouches for it."""
        return self.annotations.get(PREDICATE)


def signed_proof(bundle: bytes, predicate: str) -> Proof:
    """A Sigstore bundle with a DSSE envelope around a statement of that predicate type."""
    return Proof(
        artifact_type=BUNDLE,
        data=bundle,
        annotations={CONTENT: "dsse-envelope", PREDICATE: predicate},
    )


def attach_proofs(
    remote: Remote, subject: Descriptor, proofs: Sequence[Proof], progress: Progress
) -> list[Descriptor]:
    """Attach each of ``proofs`` to the image ``subject``; what is attached already stays as it is.

    Raises:
        EnvbuildError: exit 4, the registry fails.
    """
    attachments = [
        Attachment(
            artifact_type=proof.artifact_type,
            blobs=[(proof.data, proof.artifact_type)],
            annotations=proof.annotations,
        )
        for proof in proofs
    ]
    with progress.task("attach proofs", unit="files"):
        return remote.attach(subject, attachments)


def read_proofs(remote: Remote, digest: str) -> list[Proof]:
    """What is attached to the image ``digest``, of the kinds that envbuild knows. Nothing of it is believed yet.

    Raises:
        EnvbuildError: exit 4, the registry fails; exit 5, wrong bytes, or a referrer that is none.
    """
    found = []
    for referrer in remote.referrers(digest)[:_MOST]:
        if referrer.artifact_type in _KNOWN:
            found.append(_read(remote, digest, referrer))
    return found


def _read(remote: Remote, digest: str, referrer: Descriptor) -> Proof:
    data, _ = remote.manifest(referrer.digest)
    value = _manifest(data, referrer.digest)
    subject = value.get("subject")
    layers = value.get("layers")
    if not isinstance(subject, dict) or subject.get("digest") != digest or not isinstance(layers, list):
        raise _bad(referrer.digest, f"is attached to another image than {digest}")
    if len(layers) != 1 or not isinstance(layers[0], dict):
        raise _bad(referrer.digest, "holds something else than one file")
    notes = value.get("annotations")
    return Proof(
        artifact_type=str(value.get("artifactType")),
        data=remote.blob(_digest(layers[0], referrer.digest), limit=_LARGEST),
        annotations={str(k): str(v) for k, v in notes.items()} if isinstance(notes, dict) else {},
        referrer=referrer.digest,
    )


def _digest(entry: dict[str, Any], where: str) -> str:
    digest = entry.get("digest")
    if not is_digest(digest):
        raise _bad(where, "names no digest for its content")
    return digest


def _manifest(data: bytes, digest: str) -> dict[str, Any]:
    try:
        value = read_json(data)
    except (ValueError, RecursionError):  # msgspec's own, and UnicodeDecodeError
        value = None
    if not isinstance(value, dict):
        raise _bad(digest, "is no manifest")
    return value


def _bad(digest: str, what: str) -> EnvbuildError:
    return EnvbuildError(
        "bad-referrer",
        f"the referrer {digest} {what}",
        where=digest,
        hint="publish the image again: `envbuild publish REF REGISTRY/REPO` attaches its proofs anew",
        exit=Exit.VERIFY,
    )
