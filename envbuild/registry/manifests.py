"""Manifests and tags of a repository: asked for, read, written, and each digest checked."""

from __future__ import annotations

from collections.abc import Mapping

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import INDEX, MANIFEST, Descriptor
from envbuild.oci.digest import is_digest, of_bytes
from envbuild.oci.document import read_json, read_object
from envbuild.registry.reference import is_tag
from envbuild.registry.refusals import CHANGED, lies, told
from envbuild.registry.session import Answer, Session
from envbuild.store.faults import Fault
from envbuild.store.http import number

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_ACCEPT = {"Accept": ", ".join((INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))}
LIMIT = 4 << 20
"""Bytes of a manifest or config: what registries accept at least (distribution spec, "Pushing Manifests")."""


def head_manifest(session: Session, reference: str) -> Descriptor | None:
    """What ``reference``, a tag or a digest, names; ``None`` where it names nothing.

    Raises:
        EnvbuildError: ``registry-lies``: another digest than was asked for (exit 5); it cannot be asked (exit 4).
    """
    answer = session.ask("HEAD", f"manifests/{reference}", expect={200, 404}, headers=_ACCEPT)
    if answer.status == 404:
        return None
    digest, length = _digest(answer), number(answer.headers.get("Content-Length"))
    if digest is None or length is None or not answer.media_type:
        return read_manifest(session, reference)[1]
    if is_digest(reference) and digest != reference:
        raise lies(session.label, "answers with another manifest", expected=reference, seen=digest)
    if not is_digest(digest):
        raise lies(
            session.label, f"names no digest for {reference}", expected="a sha256 digest", seen=digest[:100]
        )
    return Descriptor(media_type=answer.media_type, digest=digest, size=length)


def read_manifest(session: Session, reference: str) -> tuple[bytes, Descriptor]:
    """The manifest that ``reference`` names, and its descriptor.

    Raises:
        EnvbuildError: ``not-found`` (exit 4), ``wrong-hash`` where a digest was asked for and ``registry-lies``
            where the registry's own header says another (exit 5).
    """
    answer = session.ask("GET", f"manifests/{reference}", expect={200, 404}, headers=_ACCEPT, limit=LIMIT)
    if answer.status == 404:
        raise EnvbuildError(
            "not-found",
            f"{session.label} answered 404: {session.name} has no image {reference}",
            hint=f"check the name; `skopeo list-tags docker://{session.name}` lists what is there",
            exit=Exit.NETWORK,
            where=str(session.name),
        )
    seen, claimed = of_bytes(answer.data), _digest(answer)
    if is_digest(reference) and seen != reference:
        raise EnvbuildError(
            "wrong-hash",
            f"{session.label} gave another manifest\n  expected {reference}\n  seen     {seen}",
            hint=CHANGED,
            exit=Exit.VERIFY,
            where=reference,
        )
    if claimed not in {None, seen}:
        raise lies(session.label, f"calls {reference} another digest", expected=seen, seen=str(claimed))
    return answer.data, Descriptor(media_type=_media_type(answer), digest=seen, size=len(answer.data))


def put_manifest(
    session: Session, data: bytes, media_type: str, tag: str | None = None
) -> tuple[Descriptor, Mapping[str, str]]:
    """Write a manifest under its digest, or under ``tag``; returns what it is, and the answer's headers.

    Under a tag a registry takes whatever comes. Where its answer tells of another digest, the manifest was changed on
    its way, and is written once more: the tag must not stay at what nobody made.

    Raises:
        EnvbuildError: ``blob-unknown`` where the registry has not all that it names, and what else
            :mod:`envbuild.registry.refusals` names; ``registry-lies`` (exit 5).
    """
    digest = of_bytes(data)
    for _ in range(1 if tag is None else 2):
        answer = session.ask(
            "PUT",
            f"manifests/{tag or digest}",
            expect={200, 201},
            writing=True,
            headers={"Content-Type": media_type},
            body=data,
        )
        seen = _digest(answer)
        if seen in {None, digest}:
            return Descriptor(media_type=media_type, digest=digest, size=len(data)), answer.headers
    raise lies(session.label, "calls the manifest another digest", expected=digest, seen=str(seen))


def list_tags(session: Session) -> list[str]:
    """The tags of the repository, as the registry orders them; none where there is no such repository.

    Raises:
        EnvbuildError: it cannot be asked (exit 4).
    """
    tags: list[str] = []
    for answer in session.pages("tags/list", expect={200, 404}):
        if answer.status == 404:
            break
        value = json_object(session, answer.data, "the list of tags").get("tags")
        tags += [tag for tag in value if is_tag(tag)] if isinstance(value, list) else []
    return tags


def json_object(session: Session, data: bytes, what: str) -> dict[str, object]:
    """``data`` as a JSON object.

    Raises:
        EnvbuildError: ``registry-failed``: it is none (exit 4).
    """
    try:
        return read_object(data)
    except ValueError:
        raise told(Fault(f"gave {what} that is no JSON object", retry=False), session.label) from None


def _digest(answer: Answer) -> str | None:
    """The digest that the registry tells; one of another kind than sha256 says nothing here."""
    value = answer.headers.get("Docker-Content-Digest")
    return value if value is not None and value.startswith("sha256:") else None


def _media_type(answer: Answer) -> str:
    """The manifest's own word, which is hashed; the registry's where it has none."""
    try:
        value = read_json(answer.data)
    except ValueError:
        value = None
    own = value.get("mediaType") if isinstance(value, dict) else None
    fallback = INDEX if isinstance(value, dict) and "manifests" in value else MANIFEST
    return str(own or answer.media_type or fallback)
