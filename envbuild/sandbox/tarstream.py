"""A layer blob as a plain tar stream: gzip (any number of members), zstd or plain, hashed while it is read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import zstandard
from isal import igzip

from envbuild.oci.tar_reader import Source

_BUFFER = 1 << 20
_LENGTH = 4
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


class HashedTar(io.RawIOBase):
    """A plain tar that is read once, from start to end. ``digest()`` covers what was read so far.

    ``read`` of a subclass gives fewer bytes than asked for only at the end, and tells :meth:`seen` of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sha256 = hashlib.sha256()

    def seen(self, data: bytes) -> bytes:
        """Take ``data`` into the digest; returns it."""
        self._sha256.update(data)
        return data

    def digest(self) -> str:
        """``sha256:…`` of the uncompressed bytes read."""
        return f"sha256:{self._sha256.hexdigest()}"


class TarStream(HashedTar):
    """A blob as it lies in a store: gzip, zstd or plain.

    Args:
        path: the blob.
        advance: gets the number of compressed bytes as they are consumed.
    """

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._raw = path.open("rb")
        self._advance = advance
        self._seen = 0
        magic = self._raw.read(4)
        self._raw.seek(0)
        self._stream: IO[bytes] | Any
        if magic.startswith(_GZIP):
            self._stream = igzip.IGzipFile(fileobj=self._raw, mode="rb")  # type: ignore[no-untyped-call] # isal has no types here
        elif magic == _ZSTD:
            self._stream = zstandard.ZstdDecompressor().stream_reader(self._raw, read_across_frames=True)
        else:
            self._stream = self._raw

    def read(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes; fewer only at the end."""
        size = _BUFFER if size < 0 else size
        data: bytes = self._stream.read(size)
        if 0 < len(data) < size:
            parts = [data]
            missing = size - len(data)
            while missing and (more := self._stream.read(missing)):
                parts.append(more)
                missing -= len(more)
            data = b"".join(parts)
        position = self._raw.tell()
        if position - self._seen >= _BUFFER or not data:
            self._advance(position - self._seen)
            self._seen = position
        return self.seen(data)

    def close(self) -> None:
        """Close the blob."""
        self._raw.close()
        super().close()


def send_frames(stream: Source, pipe: IO[bytes]) -> None:
    """Write a tar to another process: pieces with their length before them, and the length 0 at the end."""
    while data := stream.read(_BUFFER):
        _write_all(pipe, len(data).to_bytes(_LENGTH, "big"))
        _write_all(pipe, data)
    _write_all(pipe, bytes(_LENGTH))


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) :]


class Frames:
    """Tars as :func:`send_frames` writes them, one after the other; :meth:`start` each."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._left = 0
        self._ended = True

    def start(self) -> None:
        """Begin with the next tar."""
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the tar's end."""
        if not self._left and not self._ended:
            self._left = int.from_bytes(self._some(_LENGTH), "big")
            self._ended = not self._left
        if self._ended:
            return b""
        data = self._some(min(size, self._left))
        self._left -= len(data)
        return data

    def drain(self) -> None:
        """Pass over what is left of the tar."""
        while self.read(_BUFFER):
            pass

    def _some(self, size: int) -> bytes:
        data = self._pipe.read(size)
        if len(data) < size:
            raise EOFError("the process that reads it ended")
        return data
