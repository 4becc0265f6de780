"""The zip container, read strictly (PKWARE APPNOTE 6.3.10, sections 4.3 to 4.5).

A wheel is spliced by byte ranges, so this reader trusts nothing: central directory, local headers and data
descriptors must agree, and entries must fill the file without gap or overlap. That leaves one way to read it.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from envbuild.errors import EnvbuildError
from envbuild.layers.refusal import damaged, invalid

STORED: Final = 0
DEFLATED: Final = 8
_MOST_ENTRIES = 1_000_000
_LARGEST_DIRECTORY = 256 << 20
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 1 << 0 | 1 << 6 | 1 << 13, 1 << 3, 1 << 11
_PATCHED = 1 << 5
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA = 0x0001, 0x7075
_EOCD = struct.Struct("<4s4H2LH")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipEntry:
    """One entry. ``offset`` is where its data begins; ``compressed`` and ``size`` are in bytes."""

    name: str
    method: int
    offset: int
    compressed: int
    size: int
    crc: int
    executable: bool

    @property
    def is_dir(self) -> bool:
        """Whether it only names a directory."""
        return self.name.endswith("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Central:
    raw_name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    header: int
    mode: int


class ZipReader:
    """Reads one open zip file. Refuses with :class:`EnvbuildError`, naming ``wheel``.

    Args:
        fd: an open descriptor; positioned reads only.
        size: the file's size in bytes.
        wheel: the file name for messages.
    """

    def __init__(self, fd: int, size: int, wheel: str) -> None:
        self._fd = fd
        self._size = size
        self._wheel = wheel

    def entries(self) -> list[ZipEntry]:
        """All entries in the order of their data, which is also checked to fill the file."""
        start, length, count = self._end_record()
        centrals = sorted(self._centrals(start, length, count), key=lambda central: central.header)
        found: list[ZipEntry] = []
        position = 0
        for central in centrals:
            if central.header < position:
                raise self._damaged("wheel-overlap", f"entry {_show(central)} overlaps the one before it")
            if central.header > position:
                raise self._hidden(position, central.header)
            entry, position = self._entry(central, start)
            found.append(entry)
        if position != start:
            raise self._hidden(position, start)
        return found

    def _damaged(self, id: str, text: str) -> EnvbuildError:
        return damaged(self._wheel, id, text)

    def _hidden(self, start: int, end: int) -> EnvbuildError:
        return self._damaged(
            "wheel-hidden-bytes",
            f"bytes {start} to {end} belong to no entry; other readers may see other files",
        )

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset) if 0 <= offset < self._size else b""

    def _end_record(self) -> tuple[int, int, int]:
        """Offset, length and entry count of the central directory (APPNOTE 4.3.14 to 4.3.16)."""
        tail_at = max(0, self._size - _EOCD.size - _FULL16)
        tail = self._read(tail_at, self._size - tail_at)
        found = tail.rfind(b"PK\x05\x06")
        if found < 0 or len(tail) - found < _EOCD.size:
            raise invalid(self._wheel, "wheel-not-zip", "not a zip file, or its end is cut off")
        at = tail_at + found
        _, disk, first_disk, here, count, length, start, comment = _EOCD.unpack_from(tail, found)
        if at + _EOCD.size + comment != self._size:
            raise self._hidden(at + _EOCD.size, self._size)
        end = at
        locator = self._read(at - _LOCATOR64.size, _LOCATOR64.size)
        if locator[:4] == b"PK\x06\x07":
            end = _LOCATOR64.unpack(locator)[2]
            record = self._read(end, _EOCD64.size)
            if len(record) < _EOCD64.size or record[:4] != b"PK\x06\x06":
                raise self._damaged("wheel-zip-directory", "its zip64 end record is not where it should be")
            small = (disk, first_disk, here, count, length, start)
            _, own, _, _, *large = _EOCD64.unpack(record)
            if end + 12 + own != at - _LOCATOR64.size or any(
                few not in (_FULL16, _FULL32, many) for few, many in zip(small, large, strict=True)
            ):
                raise self._damaged("wheel-zip-directory", "its two end records contradict each other")
            disk, first_disk, here, count, length, start = large
        if disk or first_disk or here != count:
            raise self._damaged("wheel-zip-directory", "it is one part of a zip file of several parts")
        if start + length != end:
            raise self._hidden(start + length, end)
        if count > _MOST_ENTRIES or length > _LARGEST_DIRECTORY:
            raise self._damaged("wheel-bomb", f"{count} entries are more than any wheel has")
        return start, length, count

    def _centrals(self, start: int, length: int, count: int) -> Iterator[_Central]:
        """The central directory's entries (APPNOTE 4.3.12)."""
        data = self._read(start, length)
        at = 0
        for _ in range(count):
            if at + _CENTRAL.size > len(data) or data[at : at + 4] != b"PK\x01\x02":
                raise self._damaged("wheel-zip-directory", f"its central directory is damaged at byte {at}")
            fields = _CENTRAL.unpack_from(data, at)
            _, _, _, flags, method, _, _, crc, compressed, size, *rest = fields
            names, extras, comments, disk, _, attributes, header = rest
            at += _CENTRAL.size
            name, extra = data[at : at + names], data[at + names : at + names + extras]
            at += names + extras + comments
            shown = name.decode("utf-8", "backslashreplace")
            if at > len(data) or disk not in (0, _FULL16):
                raise self._damaged("wheel-zip-directory", f"the directory's entry {shown!r} is damaged")
            size, compressed, header = self._zip64(extra, (size, compressed, header), shown)
            yield _Central(
                raw_name=name, flags=flags, method=method, crc=crc, compressed=compressed, size=size,
                header=header, mode=attributes >> 16,
            )  # fmt: skip
        if at != len(data):
            raise self._hidden(start + at, start + len(data))

    def _extras(self, extra: bytes, shown: str) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        at = 0
        while at < len(extra):
            kind, length = struct.unpack_from("<2H", extra.ljust(at + 4, b"\0"), at)
            if at + 4 + length > len(extra) or (kind == _ZIP64_EXTRA and kind in found):
                raise self._damaged("wheel-zip-directory", f"entry {shown!r} has a damaged extra field")
            found[kind] = extra[at + 4 : at + 4 + length]
            at += 4 + length
        if _UNICODE_PATH_EXTRA in found:
            raise self._damaged("wheel-name-ambiguous", f"entry {shown!r} carries a second name")
        return found

    def _zip64(self, extra: bytes, values: tuple[int, ...], shown: str) -> tuple[int, ...]:
        """``values`` with those that are full (0xFFFFFFFF) taken from the zip64 field (APPNOTE 4.5.3)."""
        field = self._extras(extra, shown).get(_ZIP64_EXTRA)
        if field is None:
            return values
        wanted = sum(value == _FULL32 for value in values)
        if len(field) < 8 * wanted:
            raise self._damaged("wheel-zip-directory", f"entry {shown!r} has a short zip64 field")
        large = iter(struct.unpack_from(f"<{wanted}Q", field))
        return tuple(next(large) if value == _FULL32 else value for value in values)

    def _entry(self, central: _Central, limit: int) -> tuple[ZipEntry, int]:
        """The entry behind one line of the directory, and where the next one must begin."""
        name = self._name(central)
        self._check(central, name)
        raw = self._read(central.header, _LOCAL.size + len(central.raw_name) + 256)
        if len(raw) < _LOCAL.size or raw[:4] != b"PK\x03\x04":
            raise self._damaged(
                "wheel-local-header", f"entry {name!r} has no local header where it should be"
            )
        _, _, flags, method, _, _, crc, compressed, size, names, extras = _LOCAL.unpack_from(raw)
        data = central.header + _LOCAL.size + names + extras
        if data - central.header > len(raw):
            raw = self._read(central.header, data - central.header)
        same = _ENCRYPTED | _DESCRIPTOR | _UTF8 | _PATCHED
        if raw[_LOCAL.size : _LOCAL.size + names] != central.raw_name:
            raise self._damaged("wheel-local-header", f"entry {name!r} has another name in its local header")
        extra = raw[_LOCAL.size + names : _LOCAL.size + names + extras]
        size, compressed = self._zip64(extra, (size, compressed), name)
        seen, wanted = (crc, compressed, size), (central.crc, central.compressed, central.size)
        later = bool(central.flags & _DESCRIPTOR)
        agree = all(got == want or (later and got == 0) for got, want in zip(seen, wanted, strict=True))
        if method != central.method or (flags ^ central.flags) & same or not agree:
            raise self._damaged(
                "wheel-local-header",
                f"entry {name!r}: the local header says crc, compressed, size {seen}, the directory {wanted}",
            )
        end = data + central.compressed
        if later:
            end += self._descriptor(end, wanted, name, _ZIP64_EXTRA in self._extras(extra, name))
        if end > limit:
            raise self._damaged("wheel-overlap", f"entry {name!r} runs into the central directory")
        entry = ZipEntry(
            name=name, method=central.method, offset=data, compressed=central.compressed, size=central.size,
            crc=central.crc, executable=bool(central.mode & 0o111),
        )  # fmt: skip
        return entry, end

    def _name(self, central: _Central) -> str:
        try:
            return central.raw_name.decode("utf-8" if central.flags & _UTF8 else "ascii")
        except UnicodeDecodeError:
            text = f"entry {_show(central)}: its name is not UTF-8, or not marked as UTF-8"
            raise self._damaged("wheel-name-encoding", text) from None

    def _check(self, central: _Central, name: str) -> None:
        kind = stat.S_IFMT(central.mode)
        if central.flags & (_ENCRYPTED | _PATCHED):
            raise invalid(self._wheel, "wheel-encrypted", f"entry {name!r} is encrypted or a patch")
        if central.method not in (STORED, DEFLATED):
            text = f"entry {name!r} uses compression method {central.method}; wheels use 0 (stored) or 8 (deflate)"
            raise invalid(self._wheel, "wheel-compression", text)
        if kind == stat.S_IFLNK:
            raise self._damaged("wheel-symlink", f"entry {name!r} is a symbolic link")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > name.endswith("/"):
            raise self._damaged("wheel-special-file", f"entry {name!r} is neither a file nor a directory")
        if (central.method == STORED or name.endswith("/")) and central.size != central.compressed:
            raise self._damaged("wheel-size", f"entry {name!r} is stored, but has two sizes")
        if name.endswith("/") and central.size:
            raise self._damaged("wheel-size", f"entry {name!r} is a directory with content")
        if central.size > 1100 * central.compressed:
            text = f"entry {name!r}: {central.compressed} bytes cannot inflate to {central.size}"
            raise self._damaged("wheel-bomb", text)

    def _descriptor(self, at: int, wanted: tuple[int, int, int], name: str, zip64: bool) -> int:
        """Length of the data descriptor at ``at`` (APPNOTE 4.3.9), which must say what the directory says."""
        raw = self._read(at, 24)
        for layout in ("<4sL2Q", "<L2Q") if zip64 else ("<4s3L", "<3L"):
            shape = struct.Struct(layout)
            if len(raw) < shape.size:
                continue
            fields = shape.unpack_from(raw)
            if fields[-3:] == wanted and fields[0] in (b"PK\x07\x08", wanted[0]):
                return shape.size
        raise self._damaged(
            "wheel-descriptor", f"entry {name!r}: its data descriptor contradicts the directory"
        )


def _show(central: _Central) -> str:
    return repr(central.raw_name.decode("utf-8", "backslashreplace"))
