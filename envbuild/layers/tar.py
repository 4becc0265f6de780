"""Tar headers: ustar, with a PAX header where ustar cannot say it (POSIX.1-2017, pax, "ustar Interchange Format").

Written by hand, because the bytes are part of the layer format: owner 0:0 without names, the constant mtime.
"""

from __future__ import annotations

from typing import Literal

from envbuild.layers.format import MTIME

Kind = Literal["file", "dir", "symlink", "hardlink"]
BLOCK = 512
END = bytes(2 * BLOCK)
"""What ends an archive."""

_TYPE = {"file": b"0", "hardlink": b"1", "symlink": b"2", "dir": b"5"}
_LARGEST = 8**11 - 1


def padding(size: int) -> bytes:
    """The zeros that fill the last block after ``size`` bytes."""
    return bytes(-size % BLOCK)


def header(
    path: str, kind: Kind, *, mode: int, size: int = 0, link: str = "", uid: int = 0, gid: int = 0
) -> bytes:
    """The header blocks of one member.

    Args:
        path: below ``/``, without a leading or trailing slash.
        kind: file, dir, symlink or hardlink.
        mode: permission bits.
        size: content in bytes (files only).
        link: what a symlink or hardlink points to.
        uid: owner, at most 2097151.
        gid: group, likewise.
    """
    name = path + "/" if kind == "dir" else path
    records: dict[str, str] = {}
    place = _split(name)
    if place is None:
        records["path"] = name
        place = b"", name.encode("ascii", "replace")[:100]
    short_link = link.encode("ascii", "replace")
    if len(short_link) > 100 or not link.isascii():
        records["linkpath"] = link
    if size > _LARGEST:
        records["size"] = str(size)
    main = _block(
        place,
        _TYPE[kind],
        mode=mode,
        size=size if size <= _LARGEST else 0,
        link=short_link[:100],
        uid=uid,
        gid=gid,
    )
    return _pax(path, records) + main if records else main


def _split(name: str) -> tuple[bytes, bytes] | None:
    """Prefix (155 bytes) and name (100 bytes), or ``None`` where ustar has no place for it."""
    if not name.isascii():
        return None
    raw = name.encode()
    if len(raw) <= 100:
        return b"", raw
    cut = raw.find(b"/", len(raw) - 101)
    if not 0 < cut <= 155 or cut == len(raw) - 1:
        return None
    return raw[:cut], raw[cut + 1 :]


def _block(
    place: tuple[bytes, bytes],
    kind: bytes,
    *,
    mode: int,
    size: int,
    link: bytes = b"",
    uid: int = 0,
    gid: int = 0,
) -> bytes:
    prefix, name = place
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, MTIME)
    tail = b"%s%sustar\00000%s" % (kind, link.ljust(100, b"\0"), bytes(80) + prefix)
    total = sum(head) + sum(tail) + 8 * 0x20
    return (head + b"%06o\0 " % total + tail).ljust(BLOCK, b"\0")


def _pax(path: str, records: dict[str, str]) -> bytes:
    body = b"".join(_record(key, value) for key, value in sorted(records.items()))
    base = path.rpartition("/")[2].encode("ascii", "replace")[:80]
    return _block((b"", b"PaxHeaders/" + base), b"x", mode=0o644, size=len(body)) + body + padding(len(body))


def _record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = len(text)
    while length != len(text) + len(str(length)):
        length = len(text) + len(str(length))
    return str(length).encode() + text
