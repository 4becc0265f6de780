"""The run of streams, cut into pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from envbuild.bundle.model import Piece
from envbuild.oci.disk import guarded

_READ = 1 << 20


@dataclass(slots=True, kw_only=True)
class PieceWriter:
    """Writes ``piece-001`` and so on into ``folder``, each of at most ``limit`` bytes."""

    folder: Path
    limit: int
    done: list[Piece] = field(default_factory=list)
    position: int = 0
    _stream: IO[bytes] | None = None
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    _size: int = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append to the run. Raises :class:`EnvbuildError` when the disk is full."""
        view = memoryview(data)
        self.position += len(view)
        while view:
            if self._stream is None:
                with guarded(self.folder):
                    self._stream = self._path().open("wb")
                self._hash, self._size = hashlib.sha256(), 0
            part, view = view[: self.limit - self._size], view[self.limit - self._size :]
            with guarded(self.folder):
                self._stream.write(part)
            self._hash.update(part)
            self._size += len(part)
            if self._size == self.limit:
                self.close()

    def close(self) -> None:
        """Finish the last piece."""
        if self._stream is None:
            return
        path = self._path()
        with guarded(self.folder):
            self._stream.close()
        self.done.append(Piece(file=path.name, size=self._size, sha256=self._hash.hexdigest()))
        self._stream = None

    def _path(self) -> Path:
        return self.folder / f"piece-{len(self.done) + 1:03d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceReader:
    """Reads ranges of the run from the pieces that are there: (path, first byte in the run, bytes) each."""

    pieces: tuple[tuple[Path, int, int], ...]

    def read(self, start: int, length: int) -> Iterator[bytes]:
        """The bytes from ``start``, a megabyte at a time. The caller knows that the pieces are there."""
        end = start + length
        for path, first, size in self.pieces:
            low, high = max(start, first), min(end, first + size)
            if low >= high:
                continue
            with path.open("rb") as stream:
                stream.seek(low - first)
                left = high - low
                while left and (data := stream.read(min(left, _READ))):
                    left -= len(data)
                    yield data

    def covers(self, start: int, end: int) -> bool:
        """Whether every byte of the range is in a piece that is there."""
        for _, first, size in self.pieces:
            if first <= start < first + size:
                start = first + size
        return start >= end
