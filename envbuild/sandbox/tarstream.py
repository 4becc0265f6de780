"""A layer blob as a plain tar stream: gzip (any number of members), zstd or plain, hashed while it is read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import zstandard
from isal import igzip

_BUFFER = 1 << 20
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

    def drain(self) -> None:
        """Read to the end: padding after a tar's end belongs to its digest."""
        while self.read(_BUFFER):
            pass

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
