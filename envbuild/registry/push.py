"""Blobs into a repository: those that are there are not sent, others mounted or uploaded; many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING
from urllib.parse import quote

from envbuild.errors import EnvbuildError
from envbuild.oci.disk import Stopped
from envbuild.progress import Progress, Task
from envbuild.registry.content import Blob, Sent
from envbuild.registry.refusals import lies
from envbuild.registry.session import Session, Stop
from envbuild.registry.upload import Upload, cancel, has_blob
from envbuild.store.faults import Fault

if TYPE_CHECKING:
    from envbuild.registry.remote import Remote

_NOT_THERE = {"not-allowed", "not-found", "bad-repository", "registry-read-only"}
"""Errors of a mount after which the blob is uploaded instead."""


def push_blob(
    session: Session,
    blob: Blob,
    task: Task,
    *,
    mount_from: Sequence[str] = (),
    stop: Stop | None = None,
) -> Sent:
    """Bring one blob into the repository; see :meth:`envbuild.registry.remote.Remote.push`."""
    descriptor = blob.descriptor
    if has_blob(session, descriptor.digest, descriptor.size, stop=stop):
        task.advance(descriptor.size)
        return Sent(how="present")
    begun: str | None = None
    for other in mount_from:
        if begun is not None:
            cancel(session, begun)
        mounted, begun = _mount(session, descriptor.digest, other, stop)
        if mounted:
            task.advance(descriptor.size)
            return Sent(how="mounted")
    return Sent(how="uploaded", bytes=Upload(session, blob, task, begun=begun, stop=stop).run())


def push_all(
    remote: Remote, blobs: Sequence[Blob], *, jobs: int, progress: Progress, mount_from: Sequence[str] = ()
) -> dict[str, Sent]:
    """Push blobs, ``jobs`` at once, the largest first; the same digest twice is pushed once.

    The first error ends the others: at their next piece, or when their connection times out.

    Args:
        remote: where to.
        blobs: what.
        jobs: blobs at once, at least 1.
        progress: one task for all of them, in bytes.
        mount_from: repositories of the same registry that may have them.

    Returns:
        By digest, how each came there.

    Raises:
        EnvbuildError: what :meth:`envbuild.registry.remote.Remote.push` raises, of the first that failed.
    """
    unique = {blob.descriptor.digest: blob for blob in reversed(blobs)}
    order = sorted(unique.values(), key=lambda blob: (-blob.descriptor.size, blob.descriptor.digest))
    if not order:
        return {}
    label = f"push {order[0].name}" if len(order) == 1 else f"push {len(order)} blobs"
    with progress.task(label, total=sum(blob.descriptor.size for blob in order), unit="B") as task:

        def one(blob: Blob, stop: Callable[[], bool]) -> tuple[str, Sent]:
            if stop():
                raise Stopped
            return blob.descriptor.digest, remote.push(blob, task, mount_from=mount_from, stop=stop)

        return _at_once(order, one, jobs)


def _at_once(
    order: Sequence[Blob], one: Callable[[Blob, Callable[[], bool]], tuple[str, Sent]], jobs: int
) -> dict[str, Sent]:
    stop = threading.Event()
    pool = ThreadPoolExecutor(max_workers=max(1, min(jobs, len(order))), thread_name_prefix="push")
    try:
        futures = [pool.submit(one, blob, stop.is_set) for blob in order]
        return dict(future.result() for future in as_completed(futures))
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _mount(session: Session, digest: str, other: str, stop: Stop | None) -> tuple[bool, str | None]:
    """Whether the blob is mounted from ``other`` (distribution spec, "Mounting a blob from another repository").

    Where it is not, the registry has begun an upload, whose address comes second.
    """
    address = f"blobs/uploads/?mount={digest}&from={quote(other, safe='/')}"
    try:
        answer = session.ask(
            "POST", address, expect={201, 202}, writing=True, also=(other,), body=b"", stop=stop
        )
    except EnvbuildError as error:
        if error.id in _NOT_THERE:
            return False, None
        raise
    if answer.status == 201:
        seen = answer.headers.get("Docker-Content-Digest", digest)
        if seen != digest:
            raise lies(session.label, "mounted another blob", expected=digest, seen=seen)
        return True, None
    try:
        return False, session.location(answer)
    except Fault:
        return False, None
