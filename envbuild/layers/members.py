"""The gzip members of a wheel layer, in the order and with the borders that eStargz asks for.

Each file's content is a member of its own: the wheel's deflate stream as it is, or stored blocks. What lies between
two contents (padding, headers, folders, empty files) is one member of stored blocks: the glue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain

from envbuild.layers.estargz import LANDMARK, LANDMARK_CONTENT, TOC, TableOfContents, footer
from envbuild.layers.gzip import HEADER, StoredMember, trailer
from envbuild.layers.inflate import CHUNK, chunks
from envbuild.layers.tar import END, header, padding
from envbuild.layers.wheel import SplicedFile
from envbuild.layers.zip import STORED
from envbuild.oci import digest as digests

_FILE = 0o644


@dataclass(frozen=True, slots=True)
class Splice:
    """A zip entry on its way into the layer: the open wheel and the byte range."""

    fd: int
    wheel: str
    file: SplicedFile


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the tar."""

    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class File:
    """A file of the tar: its bytes, or where they lie; ``sha256`` in hex digits."""

    path: str
    mode: int
    size: int
    sha256: str
    content: bytes | Splice


Event = bytes | Splice | None
"""What the plain side hears: bytes (of the tar, or compressed ones while in an entry), an entry begins, it ends."""


class Encoder:
    """Turns folders and files into the blob's bytes, once.

    Args:
        tell: hears the same content from the side of the tar.
    """

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._glue = StoredMember()
        self._table = TableOfContents()
        self._written = 0
        self.toc = ""
        """The digest of the table of contents, once everything was encoded."""
        self.tar_size = 0
        """Bytes of the plain tar so far."""

    def encode(self, pieces: Iterable[Folder | File]) -> Iterator[bytes]:
        """The whole blob, from the landmark to the footer."""
        for data in self._blob(pieces):
            self._written += len(data)
            yield data

    def _blob(self, pieces: Iterable[Folder | File]) -> Iterator[bytes]:
        for piece in chain([_landmark()], pieces):
            if isinstance(piece, Folder):
                yield from self._plain(header(piece.path, "dir", mode=piece.mode))
                self._table.add_folder(piece.path, mode=piece.mode)
            else:
                yield from self._file(piece)
        yield from self._glue.finish()
        offset = self._written
        table = self._table.content()
        self.toc = digests.of_bytes(table)
        for part in (header(TOC, "file", mode=_FILE, size=len(table)), table, padding(len(table)) + END):
            yield from self._plain(part)
        yield from self._glue.finish()
        yield footer(offset)

    def _plain(self, data: bytes) -> Iterator[bytes]:
        self._tell(data)
        self.tar_size += len(data)
        yield from self._glue.feed(data)

    def _file(self, file: File) -> Iterator[bytes]:
        yield from self._plain(header(file.path, "file", mode=file.mode, size=file.size))
        offset = None
        if file.size:
            yield from self._glue.finish()
            offset = self._written
            yield from self._content(file.content)
        self._table.add_file(file.path, mode=file.mode, size=file.size, sha256=file.sha256, offset=offset)
        yield from self._plain(padding(file.size))

    def _content(self, content: bytes | Splice) -> Iterator[bytes]:
        """One member."""
        if isinstance(content, bytes):
            yield from self._plain(content)
            yield from self._glue.finish()
            return
        file, stored = content.file, content.file.method == STORED
        if not stored:
            yield HEADER
        self._tell(content)
        self.tar_size += file.size
        for data in chunks(content.fd, content.wheel, file.offset, file.compressed):
            self._tell(data)
            if stored:
                yield from self._glue.feed(data)
            else:
                yield data
        self._tell(None)
        if stored:
            yield from self._glue.finish()
        else:
            yield trailer(file.crc, file.size)


def _landmark() -> File:
    return File(
        LANDMARK, _FILE, len(LANDMARK_CONTENT), sha256(LANDMARK_CONTENT).hexdigest(), LANDMARK_CONTENT
    )


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of about ``CHUNK``, since hashing and writing small ones costs more than joining."""
    pending: list[bytes] = []
    length = 0
    for piece in pieces:
        pending.append(piece)
        length += len(piece)
        if length >= CHUNK:
            yield b"".join(pending)
            pending.clear()
            length = 0
    if pending:
        yield b"".join(pending)
