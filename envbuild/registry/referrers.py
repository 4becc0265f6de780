"""What refers to an image: signatures, lists of parts, verdicts (distribution spec, "Listing Referrers").

Where a registry has no referrers API (distribution 2.8), a tag ``sha256-<hex>`` names an index of them (spec,
"Referrers Tag Schema"). Two who write that index at once can undo each other's entry, because a tag cannot be
replaced under a condition. So after writing, the index is read once more when others that had read the old one must
have written theirs, and written again where the entry is gone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import INDEX, MANIFEST, Descriptor
from envbuild.oci.digest import canonical_json, is_digest, of_bytes
from envbuild.progress import SilentProgress
from envbuild.registry.content import Blob
from envbuild.registry.manifests import head_manifest, json_object, put_manifest, read_manifest
from envbuild.registry.push import push_blob
from envbuild.registry.refusals import told
from envbuild.registry.session import Session
from envbuild.store.faults import Fault

EMPTY = "application/vnd.oci.empty.v1+json"
"""The media type of the config of what has none (OCI image spec, manifest.md, "Guidance for an Empty Descriptor")."""
_ROUNDS = 12
_QUIET = 0.25
"""Seconds after which another's writing of the index is taken to be over, at least."""


def list_referrers(session: Session, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
    """The manifests whose subject is ``digest``, of one artifact type or of all.

    Raises:
        EnvbuildError: they cannot be asked for, or the answer is malformed (exit 4).
    """
    entries = _from_api(session, digest, artifact_type)
    if entries is None:
        entries = _index(session, digest)
    found = [_descriptor(session, entry) for entry in entries]
    return [item for item in found if artifact_type is None or item.artifact_type == artifact_type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What is attached: its media type, its parts (content and media type), and what is said of it in lists."""

    artifact_type: str
    blobs: Sequence[tuple[bytes, str]]
    annotations: Mapping[str, str] = field(default_factory=dict)


def attach(session: Session, subject: Descriptor, attachments: Sequence[Attachment]) -> list[Descriptor]:
    """Push manifests that refer to ``subject``; see :meth:`envbuild.registry.remote.Remote.attach`."""
    pushed = [_refer(session, subject, attachment) for attachment in attachments]
    unlisted = [entry for entry, listed in pushed if not listed]
    if unlisted:
        _enter(session, subject.digest, unlisted)
    return [entry for entry, _ in pushed]


def _refer(session: Session, subject: Descriptor, attachment: Attachment) -> tuple[Descriptor, bool]:
    """Push one manifest; its entry in lists, and whether the registry itself lists it now (``OCI-Subject``)."""
    empty = _push_small(session, b"{}", EMPTY)
    layers = [_push_small(session, data, media_type) for data, media_type in attachment.blobs] or [empty]
    artifact_type, annotations = attachment.artifact_type, attachment.annotations
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": empty.to_dict(),
        "layers": [layer.to_dict() for layer in layers],
        "subject": Descriptor(
            media_type=subject.media_type, digest=subject.digest, size=subject.size
        ).to_dict(),
        "annotations": dict(annotations),
    }
    if not annotations:
        del manifest["annotations"]
    written, headers = put_manifest(session, canonical_json(manifest), MANIFEST)
    entry = Descriptor(
        media_type=MANIFEST,
        digest=written.digest,
        size=written.size,
        annotations=annotations,
        artifact_type=artifact_type,
    )
    return entry, headers.get("OCI-Subject") is not None


def _push_small(session: Session, data: bytes, media_type: str) -> Descriptor:
    descriptor = Descriptor(media_type=media_type, digest=of_bytes(data), size=len(data))
    blob = Blob(descriptor=descriptor, name=media_type, chunks=lambda offset: iter((data[offset:],)))
    with SilentProgress().task("attach") as task:
        push_blob(session, blob, task)
    return descriptor


def _from_api(session: Session, digest: str, artifact_type: str | None) -> list[dict[str, Any]] | None:
    """The entries that the referrers API lists; ``None`` where the registry has no such API."""
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    entries: list[dict[str, Any]] = []
    for answer in session.pages(
        f"referrers/{digest}{query}", expect={200, 404, 405, 501}, headers={"Accept": INDEX}
    ):
        if answer.status != 200:
            return None
        entries += _entries(session, answer.data)
    return entries


def _index(session: Session, digest: str) -> list[dict[str, Any]]:
    """The entries of the index that the fallback tag names; none where there is no such tag."""
    tag = _tag(digest)
    if head_manifest(session, tag) is None:
        return []
    return _entries(session, read_manifest(session, tag)[0])


def _enter(session: Session, subject: str, wanted: Sequence[Descriptor]) -> None:
    """See that the fallback tag's index has every one of ``wanted``, whoever else writes it."""
    for _ in range(_ROUNDS):
        began = time.monotonic()
        entries = _index(session, subject)
        lacking = [item for entry in wanted if (item := entry.to_dict()) not in entries]
        if not lacking:
            return
        wrong = {
            item["digest"] for item in lacking
        }  # one of that digest that says something else is nobody's
        others = [item for item in entries if item.get("digest") not in wrong]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*others, *lacking]}
        put_manifest(session, canonical_json(index), INDEX, _tag(subject))
        took = time.monotonic() - began
        time.sleep(max(_QUIET, 2 * took) * random.uniform(1, 1.5))  # noqa: S311 - spreads writers, guards nothing
    raise EnvbuildError(
        "referrers-busy",
        f"{session.label}: others keep replacing the index {_tag(subject)}, and what was attached is not in it",
        hint="run the same command again when the others are done",
        exit=Exit.NETWORK,
        where=f"{session.name}:{_tag(subject)}",
    )


def _entries(session: Session, data: bytes) -> list[dict[str, Any]]:
    entries = json_object(session, data, "a list of referrers").get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _malformed(session)
    return entries


def _descriptor(session: Session, entry: Mapping[str, Any]) -> Descriptor:
    media_type, digest, size = entry.get("mediaType"), entry.get("digest"), entry.get("size")
    annotations, artifact_type = entry.get("annotations") or {}, entry.get("artifactType")
    if not (
        isinstance(media_type, str)
        and isinstance(digest, str)
        and is_digest(digest)
        and type(size) is int
        and size >= 0
        and isinstance(annotations, dict)
    ):
        raise _malformed(session)
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        annotations={str(name): str(value) for name, value in annotations.items()},
        artifact_type=str(artifact_type) if artifact_type else None,
    )


def _tag(digest: str) -> str:
    return digest.replace(":", "-")


def _malformed(session: Session) -> EnvbuildError:
    return told(Fault("gave a list of referrers that is malformed", retry=False), session.label)
