"""One repository of a registry that can be read and written (OCI distribution specification 1.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import Descriptor
from envbuild.oci.digest import Digest, of_bytes
from envbuild.progress import Task
from envbuild.registry.content import Blob, Sent
from envbuild.registry.manifests import head_manifest, list_tags, put_manifest, read_manifest
from envbuild.registry.push import push_all, push_blob
from envbuild.registry.reference import Repository
from envbuild.registry.referrers import Attachment, attach, list_referrers
from envbuild.registry.refusals import CHANGED
from envbuild.registry.session import Session, Stop
from envbuild.registry.upload import has_blob
from envbuild.store.download import Source
from envbuild.store.http import Http

__all__ = ["Attachment", "Blob", "Remote", "Sent", "push_all"]


class Remote:
    """A repository. Threads may share it.

    Every method raises :class:`EnvbuildError` with the ids of docs/reference/registry.md: exit 4 where the registry
    cannot be reached or refuses, exit 5 where it lies or content is not what its digest says.

    Args:
        name: which.
        http: the connections; its patience says how often is tried again.
        environ: where credentials are found, and with whom plain HTTP may be spoken.
    """

    def __init__(self, name: Repository, *, http: Http, environ: Mapping[str, str]) -> None:
        self.name = name
        self.http = http
        self._session = Session(name, http, environ)
        self.label = self._session.label

    def head(self, reference: str) -> Descriptor | None:
        """What a tag or a digest names; ``None`` where it names nothing, also where there is no such repository."""
        return head_manifest(self._session, reference)

    def manifest(self, reference: str) -> tuple[bytes, Descriptor]:
        """The manifest that a tag or a digest names, checked; ``not-found`` where it names nothing."""
        return read_manifest(self._session, reference)

    def blob(self, digest: str, *, limit: int) -> bytes:
        """A small blob, checked; refused where it has more than ``limit`` bytes."""
        data = self._session.ask("GET", f"blobs/{Digest(digest)}", expect={200}, limit=limit).data
        if (seen := of_bytes(data)) != digest:
            raise EnvbuildError(
                "wrong-hash",
                f"{self.label} gave another blob\n  expected {digest}\n  seen     {seen}",
                hint=CHANGED,
                exit=Exit.VERIFY,
                where=digest,
            )
        return data

    def source(self, digest: str) -> Source:
        """Where :func:`envbuild.store.fetch.fetch` gets a blob of any size, authorized as the registry has asked."""
        return self._session.source(digest)

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether a blob is there; ``registry-lies`` where it is with another size."""
        return has_blob(self._session, digest, size)

    def push(
        self, blob: Blob, task: Task, *, mount_from: Sequence[str] = (), stop: Stop | None = None
    ) -> Sent:
        """Bring a blob into the repository: nothing is sent where it is there, or can be mounted.

        Otherwise it is uploaded in pieces; after a cut the registry is asked how far it came. What is sent is
        hashed, and a blob that is not what its descriptor says is never completed. Memory does not depend on its
        size.

        Args:
            blob: what.
            task: counts its bytes, each once.
            mount_from: repositories of the same registry (without the registry's name) that may have it.
            stop: asked before each piece; then :class:`envbuild.oci.disk.Stopped` is raised.
        """
        others = [name for name in mount_from if name != self.name.repository]
        return push_blob(self._session, blob, task, mount_from=others, stop=stop)

    def put_manifest(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Write a manifest, by its digest where there is no ``tag``; the registry must call it the same digest."""
        return put_manifest(self._session, data, media_type, tag)[0]

    def tags(self) -> list[str]:
        """The tags; none where there is no such repository."""
        return list_tags(self._session)

    def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """The manifests that refer to ``digest``, with artifact types and annotations.

        Asks the referrers API, and reads the index under the fallback tag where the registry has none.
        """
        return list_referrers(self._session, digest, artifact_type)

    def attach(self, subject: Descriptor, attachments: Sequence[Attachment]) -> list[Descriptor]:
        """Push manifests that refer to ``subject``, one for each attachment. The same twice changes nothing.

        Where the registry has no referrers API, all of them are entered into the fallback tag's index at once.

        Args:
            subject: the image's manifest.
            attachments: what to attach.

        Returns:
            The descriptors of the manifests, in order, as lists of referrers give them.
        """
        return attach(self._session, subject, attachments)
