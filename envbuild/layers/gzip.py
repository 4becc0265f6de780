"""Gzip members made of stored deflate blocks, and the frame for deflate bytes that exist (RFC 1952, RFC 1951 3.2.4).

No compressor takes part, so the bytes are the same on every machine.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Deflate, no name, mtime 0, no hint, unknown operating system."""

_BLOCK = 0xFFFF


def trailer(crc: int, size: int) -> bytes:
    """CRC32 and size modulo 2**32 of the member's plain bytes."""
    return struct.pack("<2L", crc, size & 0xFFFFFFFF)


class StoredMember:
    """One gzip member of any length, written while its content comes, in constant memory.

    The blocks are cut every 65535 bytes whatever the pieces that come in, so only the content counts.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._crc = 0
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take content; yield what can be written already."""
        if not data:
            return
        if not self._size:
            yield HEADER
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._pending += data
        while len(self._pending) > _BLOCK:
            yield _frame(self._pending[:_BLOCK], last=False)
            del self._pending[:_BLOCK]

    def finish(self) -> Iterator[bytes]:
        """End the member, if it has content; the next :meth:`feed` begins another one."""
        if self._size:
            yield _frame(self._pending, last=True) + trailer(self._crc, self._size)
        self._pending = bytearray()
        self._crc = self._size = 0


def _frame(data: bytearray, *, last: bool) -> bytes:
    return struct.pack("<B2H", last, len(data), len(data) ^ 0xFFFF) + data
