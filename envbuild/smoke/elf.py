"""A small reader of ELF files: what a shared object needs (System V gABI, chapters 4 and 5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 14, 15, 29
X86_64 = 62


class NotElf(ValueError):
    """The file is no 64-bit little-endian ELF file, or it is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """The dynamic section. ``machine`` is e_machine (62: x86-64); ``search`` DT_RPATH and DT_RUNPATH entries."""

    machine: int
    needed: tuple[str, ...]
    soname: str | None
    search: tuple[str, ...]


def read_elf(path: Path) -> Elf:
    """Read a shared object's dynamic section.

    Raises:
        NotElf: the file is something else, cut short or inconsistent.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    try:
        return _parse(data)
    except (struct.error, OverflowError, UnicodeDecodeError) as error:
        raise NotElf(f"{path.name} is damaged: {error}") from error


def _parse(data: bytes) -> Elf:
    if data[:4] != b"\x7fELF":
        raise NotElf("it does not begin with the ELF magic number")
    if data[4:6] != b"\x02\x01":
        raise NotElf("it is not 64-bit little-endian")
    header = _HEADER.unpack_from(data)
    machine, offset, size, count = header[2], header[5], header[9], header[10]
    loads: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    for index in range(count):
        kind, _, file_at, address, _, file_size, _, _ = _PROGRAM.unpack_from(data, offset + index * size)
        if kind == _PT_LOAD:
            loads.append((address, file_at, file_size))
        elif kind == _PT_DYNAMIC:
            dynamic = (file_at, file_size)
    if dynamic is None:
        raise NotElf("it has no dynamic section: it is not a shared object")
    entries = _entries(data, *dynamic)
    table = [value for tag, value in entries if tag == _DT_STRTAB]
    length = [value for tag, value in entries if tag == _DT_STRSZ]
    if not table or not length:
        raise NotElf("its dynamic section has no string table")
    start = _file_offset(table[0], loads)
    strings = data[start : start + length[0]]

    def texts(tag: int) -> tuple[str, ...]:
        return tuple(_text(strings, value) for kind, value in entries if kind == tag)

    search = tuple(
        part for tag in (_DT_RPATH, _DT_RUNPATH) for text in texts(tag) for part in text.split(":")
    )
    return Elf(
        machine=machine, needed=texts(_DT_NEEDED), soname=next(iter(texts(_DT_SONAME)), None), search=search
    )


def _entries(data: bytes, offset: int, size: int) -> list[tuple[int, int]]:
    entries = []
    for place in range(offset, offset + size, _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(data, place)
        if tag == _DT_NULL:
            break
        entries.append((tag, value))
    return entries


def _file_offset(address: int, loads: list[tuple[int, int, int]]) -> int:
    for start, file_at, size in loads:
        if start <= address < start + size:
            return file_at + address - start
    raise NotElf("its string table lies in no loaded segment")


def _text(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset)
    if offset >= len(strings) or end < 0:
        raise NotElf("a name lies outside its string table")
    return strings[offset:end].decode()
