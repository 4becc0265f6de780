"""Content to push."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from envbuild.oci.descriptor import Descriptor
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
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


def make_image(layout: Layout) -> Image:
    layers = []
    for seed in range(3):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            entry = tarfile.TarInfo(f"file-{seed}")
            entry.size = 300_000
            tar.addfile(entry, io.BytesIO(random.Random(seed).randbytes(entry.size)))
        with layout.writer() as writer:
            writer.write(gzip.compress(buffer.getvalue(), 1, mtime=0))
        diff_id = "sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest()
        layers.append(Layer(name=f"l{seed}", digest=writer.digest, diff_id=diff_id, size=writer.size))
    run = RunConfig(env={"A": "b"}, entrypoint=(), cmd=("sh",), working_dir="/", user="root", labels={})
    image = Image(layers=tuple(layers), run=run, created="2020-01-01T00:00:00Z")
    layout.put(image.config_bytes)
    layout.put(image.manifest_bytes)
    layout.tag("image", image.manifest)
    return image
