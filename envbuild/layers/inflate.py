"""Inflating one zip entry piece by piece, with everything that its directory and RECORD promise checked."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from typing import cast

from isal import igzip_lib, isal_zlib

from envbuild.layers.refusal import damaged
from envbuild.layers.zip import STORED, ZipEntry

_StreamError = cast("type[Exception]", igzip_lib.error)  # isal's stubs call it an instance
CHUNK = 1 << 18
"""Bytes read or inflated at a time: they stay in a core's second-level cache."""


class Inflater:
    """Turns an entry's compressed bytes into plain ones and refuses whatever does not match.

    Args:
        wheel: for messages.
        name: the entry's name or path, for messages.
        method: 0 stored, 8 deflate.
        size: promised plain size in bytes.
        crc: promised CRC32.
        hash: promised RECORD hash (``sha256=…``), or ``None`` where there is none to check.
    """

    __slots__ = ("_crc", "_hash", "_hasher", "_name", "_seen", "_size", "_stream", "_sum", "_wheel")

    def __init__(self, wheel: str, name: str, *, method: int, size: int, crc: int, hash: str | None) -> None:
        self._wheel, self._name = wheel, name
        self._size, self._crc, self._hash = size, crc, hash
        self._seen = self._sum = 0
        self._hasher = hashlib.new(hash.partition("=")[0]) if hash is not None else None
        self._stream = (
            None if method == STORED else igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
        )

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the plain bytes of the next compressed ones, at most ``CHUNK`` (or ``len(data)``) at a time."""
        stream = self._stream
        if stream is None:
            yield self._check(data)
            return
        if stream.eof:
            raise damaged(
                self._wheel, "wheel-deflate", f"{self._name}: bytes follow the end of its deflate stream"
            )
        while True:
            try:
                plain = stream.decompress(data, CHUNK)
            except _StreamError as error:
                text = f"{self._name}: its deflate stream is damaged ({error})"
                raise damaged(self._wheel, "wheel-deflate", text) from None
            if plain:
                yield self._check(plain)
            data = b""
            if stream.eof or (stream.needs_input and len(plain) < CHUNK):
                break
        if stream.eof and stream.unused_data:
            raise damaged(
                self._wheel, "wheel-deflate", f"{self._name}: bytes follow the end of its deflate stream"
            )

    def _check(self, plain: bytes) -> bytes:
        self._seen += len(plain)
        if self._seen > self._size:
            text = f"{self._name}: more than the {self._size} bytes that the wheel's directory promises"
            raise damaged(self._wheel, "wheel-size", text)
        self._sum = isal_zlib.crc32(plain, self._sum)
        if self._hasher is not None:
            self._hasher.update(plain)
        return plain

    def finish(self) -> None:
        """Refuse an entry that is too short, or whose CRC32 or RECORD hash is another one."""
        if self._stream is not None and not self._stream.eof:
            raise damaged(self._wheel, "wheel-deflate", f"{self._name}: its deflate stream has no end")
        if self._seen != self._size:
            text = f"{self._name}: {self._seen} bytes where the wheel's directory promises {self._size}"
            raise damaged(self._wheel, "wheel-size", text)
        if self._sum != self._crc:
            text = f"{self._name}: CRC32 {self._sum:08x} where the wheel's directory promises {self._crc:08x}"
            raise damaged(self._wheel, "wheel-crc", text)
        if self._hasher is not None and self._hash is not None:
            seen = base64.urlsafe_b64encode(self._hasher.digest()).decode().rstrip("=")
            name, _, wanted = self._hash.partition("=")
            if seen != wanted.rstrip("="):
                text = f"{self._name}: {name} {seen} where RECORD promises {wanted}"
                raise damaged(self._wheel, "wheel-record-hash", text)


def chunks(fd: int, wheel: str, offset: int, length: int) -> Iterator[bytes]:
    """Read a byte range of the wheel piece by piece."""
    while length:
        data = os.pread(fd, min(length, CHUNK), offset)
        if not data:
            raise damaged(wheel, "wheel-truncated", f"the file ends at byte {offset}, inside an entry")
        offset += len(data)
        length -= len(data)
        yield data


def read_entry(fd: int, wheel: str, entry: ZipEntry, *, hash: str | None, limit: int) -> bytes:
    """A small entry's whole content, verified. ``limit`` is the largest size in bytes that makes sense here."""
    if entry.size > limit:
        raise damaged(wheel, "wheel-bomb", f"{entry.name}: {entry.size} bytes are more than such a file has")
    stream = Inflater(wheel, entry.name, method=entry.method, size=entry.size, crc=entry.crc, hash=hash)
    plain = [
        piece for data in chunks(fd, wheel, entry.offset, entry.compressed) for piece in stream.feed(data)
    ]
    stream.finish()
    return b"".join(plain)
