"""What a layer's tar consists of: the content of files, and the headers and padding between."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from envbuild.bundle.mapped import map_file
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.disk import guarded
from envbuild.oci.tar_reader import entries
from envbuild.sandbox.tarstream import TarStream

_READ = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The content of one regular file: its path in the layer, and where it lies in the tar."""

    path: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainLayer:
    """A layer's plain tar, mapped, and its files in the tar's order."""

    data: memoryview
    files: tuple[Content, ...]


@contextmanager
def plain_layer(
    blob: Path, diff_id: str, scratch: Path, *, advance: Callable[[int], None]
) -> Iterator[PlainLayer]:
    """Decompress ``blob`` to the file ``scratch``, which is removed afterwards, and look what it holds.

    Raises:
        EnvbuildError: exit 5 when it is not the layer of ``diff_id``; exit 2 when the disk is full.
    """
    stream = TarStream(blob, advance)
    try:
        with guarded(scratch), scratch.open("wb") as out:
            while data := stream.read(_READ):
                out.write(data)
        if stream.digest() != diff_id:
            raise _damaged(blob, f"its content is {stream.digest()}, expected {diff_id}")
        try:
            files = _files(scratch)
        except tarfile.TarError as error:
            raise _damaged(blob, str(error)) from error
        yield PlainLayer(data=map_file(scratch), files=files)
    finally:
        stream.close()
        scratch.unlink(missing_ok=True)


def _files(tar: Path) -> tuple[Content, ...]:
    found = []
    with tar.open("rb") as stream:
        for entry, content in entries(stream):
            if content is not None and entry.size:
                start = stream.tell()
                found.append(Content(path=entry.name, start=start, end=start + entry.size))
    return tuple(found)


def _damaged(blob: Path, reason: str) -> EnvbuildError:
    return EnvbuildError(
        "layer-damaged",
        f"layer {blob.name} of the store is damaged: {reason}",
        where=str(blob),
        hint="remove this file and run `envbuild image REF`: it is then built again",
        exit=Exit.VERIFY,
    )
