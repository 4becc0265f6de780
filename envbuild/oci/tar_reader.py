"""A tar that somebody else made, read once from start to end, with bounds on everything that its headers say.

``tarfile`` decodes the header blocks. What joins them is here: extended headers (pax, GNU long names) of a bounded
size and number, content that must be there, an end that must be marked. ``tarfile`` itself loops for ever over a
size that is not there, reads extended headers of any size into memory, calls itself once for each of a chain, and
takes a cut archive for a whole one.
"""

from __future__ import annotations

import io
import math
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

_BLOCK = 512
_COPY = 1 << 20
_LARGEST = 1 << 40
_MOST_ENTRIES = 2_000_000
_LARGEST_EXTENDED = 1 << 20
_MOST_EXTENDED = 16
_MOST_GLOBAL = 100
_MOST_IDS = (1 << 32) - 1
_FARTHEST = 1 << 40
_LONGEST = 4096
_PAX = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}
_LONG = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_INTEGER = re.compile(r"-?\d{1,20}")
_DECIMAL = re.compile(r"-?\d{1,20}(\.\d{0,30})?")


class Source(Protocol):
    """What a tar is read from: fewer bytes than asked for only at the end, or not at all."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


class Content(io.RawIOBase):
    """The bytes of one regular file. What is not read of it is passed over."""

    def __init__(self, source: Source, name: str, size: int) -> None:
        super().__init__()
        self._source = source
        self._name = name
        self._left = size

    def readable(self) -> bool:
        """It can be read."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes; all that is left by default."""
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        parts = []
        while wanted:
            data = self._source.read(min(wanted, _COPY))
            if not data:
                raise tarfile.ReadError(f"the archive ends in {self._name!r}, {self._left} bytes too early")
            parts.append(data)
            wanted -= len(data)
            self._left -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self) -> None:
        """Read the rest and drop it."""
        while self._left:
            self.read(_COPY)


@dataclass(slots=True)
class _Extended:
    """What the headers before an entry say of it."""

    name: str | None = None
    link: str | None = None
    pax: dict[str, str] = field(default_factory=dict)
    count: int = 0


def entries(source: Source) -> Iterator[tuple[tarfile.TarInfo, Content | None]]:
    """The entries of a tar, in its order; with its content if one is a regular file, to be read before the next.

    Raises:
        tarfile.TarError: it is no tar, it is cut off, or a header says what no file can have.
    """
    everywhere: dict[str, str] = {}
    extended = _Extended()
    count = 0
    while (header := _header(source, first=not count)) is not None:
        if header.type in _PAX or header.type in _LONG or header.type == tarfile.XGLTYPE:
            _extend(extended, everywhere, header, source)
            continue
        count += 1
        if count > _MOST_ENTRIES:
            raise tarfile.ReadError(f"it has more than {_MOST_ENTRIES} entries")
        _apply(header, extended, everywhere)
        _check(header)
        size = header.size if header.isreg() or header.type not in tarfile.SUPPORTED_TYPES else 0
        content = Content(source, header.name, size)
        yield header, content if header.isreg() else None
        content.skip()
        _padding(source, size)
        extended = _Extended()
    if extended.pax or extended.name is not None or extended.link is not None:
        raise tarfile.ReadError("it ends after an extended header, whose entry is missing")


def _exactly(source: Source, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data


def _header(source: Source, *, first: bool) -> tarfile.TarInfo | None:
    """The next header; ``None`` at the mark of the end."""
    block = _exactly(source, _BLOCK)
    if len(block) < _BLOCK:
        raise tarfile.ReadError("it is empty" if first and not block else "it is cut off: no mark of its end")
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if not block.strip(b"\0"):
            return None
        raise tarfile.ReadError(f"not a tar, or damaged: {error}") from error
    except ValueError as error:  # a number that is none
        raise tarfile.ReadError(f"a header is damaged: {error}") from error


def _padding(source: Source, size: int) -> None:
    missing = -size % _BLOCK
    if len(_exactly(source, missing)) < missing:
        raise tarfile.ReadError("it is cut off: no mark of its end")


def _extend(extended: _Extended, everywhere: dict[str, str], header: tarfile.TarInfo, source: Source) -> None:
    """Read an extended header (POSIX pax, GNU tar's long names)."""
    extended.count += 1
    if extended.count > _MOST_EXTENDED:
        raise tarfile.ReadError(f"an entry has more than {_MOST_EXTENDED} extended headers")
    if not 0 <= header.size <= _LARGEST_EXTENDED:
        raise tarfile.ReadError(
            f"an extended header claims {header.size} bytes, more than {_LARGEST_EXTENDED}"
        )
    data = _exactly(source, header.size)
    if len(data) < header.size:
        raise tarfile.ReadError("it is cut off in an extended header")
    _padding(source, header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        extended.name = _text(data.partition(b"\0")[0])
    elif header.type == tarfile.GNUTYPE_LONGLINK:
        extended.link = _text(data.partition(b"\0")[0])
    elif header.type == tarfile.XGLTYPE:
        everywhere |= _records(data)
        if len(everywhere) > _MOST_GLOBAL:
            raise tarfile.ReadError(f"its global headers have more than {_MOST_GLOBAL} keywords")
    else:
        extended.pax |= _records(data)


def _records(data: bytes) -> dict[str, str]:
    """The records of a pax header: ``length keyword=value`` and a newline, where the length counts all of it."""
    found = {}
    at, end = 0, len(data.rstrip(b"\0"))
    while at < end:
        digits, space, _ = data[at : at + 21].partition(b" ")
        stop = at + (int(digits) if digits.isdigit() else 0)
        record = data[at + len(digits) + 1 : stop]
        keyword, equals, value = record.partition(b"=")
        if not space or not keyword or not equals or stop > len(data) or not value.endswith(b"\n"):
            raise tarfile.ReadError("a record of a pax header is damaged")
        found[_text(keyword)] = _text(value[:-1])
        at = stop
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _apply(entry: tarfile.TarInfo, extended: _Extended, everywhere: dict[str, str]) -> None:
    """Put what extended headers say into the entry."""
    pax = {**everywhere, **extended.pax}
    name = pax.get("path", extended.name)
    if name is not None:
        entry.name = name.rstrip("/") if "path" in pax or entry.isdir() else name
    link = pax.get("linkpath", extended.link)
    if link is not None:
        entry.linkname = link
    if "size" in pax:
        entry.size = _integer(entry, pax, "size")
    if "uid" in pax:
        entry.uid = _integer(entry, pax, "uid")
    if "gid" in pax:
        entry.gid = _integer(entry, pax, "gid")
    if "mtime" in pax:
        if not _DECIMAL.fullmatch(pax["mtime"]):
            raise _odd(entry, f"the time {pax['mtime'][:40]!r}")
        entry.mtime = float(pax["mtime"])
    entry.uname, entry.gname = pax.get("uname", entry.uname), pax.get("gname", entry.gname)
    entry.pax_headers = pax


def _integer(entry: tarfile.TarInfo, pax: dict[str, str], key: str) -> int:
    if not _INTEGER.fullmatch(pax[key]):
        raise _odd(entry, f"the {key} {pax[key][:40]!r}")
    return int(pax[key])


def _check(entry: tarfile.TarInfo) -> None:
    """Refuse what no file can have."""
    if "\0" in entry.name or "\0" in entry.linkname:
        raise _odd(entry, "a NUL in its name or in its link's target")
    if max(len(entry.name), len(entry.linkname)) > _LONGEST:
        raise _odd(entry, f"a name or a link's target of more than {_LONGEST} characters")
    if entry.type == tarfile.GNUTYPE_SPARSE or any(
        key.startswith("GNU.sparse.") for key in entry.pax_headers
    ):
        raise _odd(entry, "a sparse content, which layers and packages have not")
    if not 0 <= entry.size <= _LARGEST:
        raise _odd(entry, f"the size {entry.size}")
    if not 0 <= entry.uid < _MOST_IDS or not 0 <= entry.gid < _MOST_IDS:
        raise _odd(entry, f"the owner {entry.uid}:{entry.gid}")
    if not math.isfinite(entry.mtime) or abs(entry.mtime) > _FARTHEST:
        raise _odd(entry, f"the time {entry.mtime}")


def _odd(entry: tarfile.TarInfo, what: str) -> tarfile.ReadError:
    return tarfile.ReadError(f"its entry {entry.name[:200]!r} has {what}")
