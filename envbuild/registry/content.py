"""What is pushed: a blob whose bytes can be read from any offset on, hashed while they go out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import Descriptor
from envbuild.oci.disk import Stopped

_MARK = 16 << 20
"""Bytes between two states of the hash that are kept: a resumed upload reads again from the last one at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Content to push.

    Args:
        descriptor: its digest, size and media type.
        name: what messages call it.
        chunks: gives the content from a byte offset on, in pieces of a few MiB at most; may be called again.
    """

    descriptor: Descriptor
    name: str
    chunks: Callable[[int], Iterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """How a blob came to be in the registry, and the bytes of it that were sent, those sent again included."""

    how: Literal["present", "mounted", "uploaded"]
    bytes: int = 0


class Content:
    """A blob on its way out. Whatever is sent, and in how many pieces, is hashed in order from its first byte.

    The last piece is given out only when the whole content is what the descriptor says, so that a registry never
    has all of a wrong blob.

    Args:
        blob: what.
        stop: asked before each piece.
    """

    def __init__(self, blob: Blob, stop: Callable[[], bool] | None = None) -> None:
        self._blob = blob
        self._size = blob.descriptor.size
        self._stop = stop
        self._marks = {0: hashlib.sha256()}
        self._source: tuple[int, bytes, Iterator[bytes]] | None = None

    def pieces(self, start: int, length: int) -> Iterator[bytes]:
        """``length`` bytes from ``start`` on; what lies between the last known hash and ``start`` is read as well.

        Raises:
            EnvbuildError: ``wrong-content``: it is not what the descriptor says (exit 5); ``unreadable-content``:
                it cannot be read (exit 2).
            Stopped: the push was stopped.
        """
        end = start + length
        position = max(mark for mark in self._marks if mark <= start)
        hasher = self._marks[position].copy()
        while position < end:
            piece = self._next(position, end)
            hasher.update(piece)
            skipped = max(0, start - position)
            position += len(piece)
            self._mark(position, hasher, end)
            if position == self._size:
                self._check(hasher)
            if skipped < len(piece):
                yield piece[skipped:]
        if self._size == 0:
            self._check(hasher)

    def check(self) -> None:
        """See that all of it is right: where a registry has it all, and less has been hashed.

        Raises:
            EnvbuildError: ``wrong-content`` (exit 5).
        """
        if self._size not in self._marks or self._size == 0:
            for _ in self.pieces(self._size, 0):
                pass

    def _mark(self, position: int, hasher: hashlib._Hash, end: int) -> None:
        if position == end or position - max(self._marks) >= _MARK:
            self._marks[position] = hasher.copy()

    def _next(self, position: int, end: int) -> bytes:
        """The piece at ``position``, cut at ``end``; what is cut off is kept for the next request."""
        if self._stop is not None and self._stop():
            raise Stopped
        if self._source is not None and self._source[0] == position:
            _, piece, source = self._source
        else:
            piece, source = b"", self._blob.chunks(position)
        self._source = None
        piece = piece or self._read(source)
        if not piece:
            raise self._wrong(f"{position} bytes only")
        if len(piece) > end - position:
            piece, rest = piece[: end - position], piece[end - position :]
            self._source = end, rest, source
        else:
            self._source = position + len(piece), b"", source
        return piece

    def _read(self, source: Iterator[bytes]) -> bytes:
        """The next piece that is not empty; empty at the end."""
        try:
            return bytes(next((piece for piece in source if piece), b""))
        except OSError as error:
            raise EnvbuildError(
                "unreadable-content",
                f"{self._blob.name} cannot be read: {error.strerror or error}",
                hint="see that the file is still there and can be read, then run the same command again",
                exit=Exit.USAGE,
                where=self._blob.descriptor.digest,
            ) from error

    def _check(self, hasher: hashlib._Hash) -> None:
        _, rest, source = self._source or (0, b"", self._blob.chunks(0))
        if rest or self._read(source):
            raise self._wrong(f"more than {self._size} bytes")
        if (seen := "sha256:" + hasher.hexdigest()) != self._blob.descriptor.digest:
            raise self._wrong(seen)

    def _wrong(self, what: str) -> EnvbuildError:
        expected = f"{self._blob.descriptor.digest} ({self._size} bytes)"
        return EnvbuildError(
            "wrong-content",
            f"{self._blob.name} is not what its image names, and nothing of it was kept by the registry\n"
            f"  expected {expected}\n  seen     {what}",
            hint="the file changed since the image was made: build the image again",
            exit=Exit.VERIFY,
            where=self._blob.descriptor.digest,
        )
