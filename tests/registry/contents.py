"""Content to push."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from envbuild.oci.descriptor import Descriptor
from envbuild.progress import SilentProgress
from envbuild.registry import Blob, Remote, Sent, push_all

PIECE = 1 << 20


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def blob_of(data: bytes, name: str = "layer", *, really: bytes | None = None) -> Blob:
    """A blob that says that it is ``data``, and is ``really`` something else where that is given."""
    content = data if really is None else really

    def chunks(offset: int) -> Iterator[bytes]:
        for start in range(offset, len(content), PIECE):
            yield content[start : start + PIECE]

    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    descriptor = Descriptor(media_type="application/octet-stream", digest=digest, size=len(data))
    return Blob(descriptor=descriptor, name=name, chunks=chunks)


def push(remote: Remote, *blobs: Blob, jobs: int = 2, mount_from: tuple[str, ...] = ()) -> list[Sent]:
    """Push; how each came there, in the order given."""
    sent = push_all(remote, blobs, jobs=jobs, progress=SilentProgress(), mount_from=mount_from)
    return [sent[blob.descriptor.digest] for blob in blobs]


class Counted:
    """A progress that remembers its tasks and counts what they were told."""

    def __init__(self) -> None:
        self.seen = 0
        self.tasks: list[tuple[str, int | None]] = []
        self._guard = threading.Lock()

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Counted]:
        self.tasks.append((label, total))
        yield self

    def advance(self, amount: int) -> None:
        with self._guard:
            self.seen += amount

    def total(self, total: int) -> None:
        raise AssertionError("the total is known from the start")

    def note(self, text: str) -> None:
        raise AssertionError(text)
