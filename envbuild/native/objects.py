"""What a compiled extension module is: the libraries that it needs (ELF) and the GPU code in it (CUDA's fat binary).

The module is read, never loaded or run. The fat binary's layout is that of CUDA 12 and 13, as ``cuobjdump`` of
CUDA 12.4 lists it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SECTION = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_DYNAMIC, _DT_NEEDED, _DT_SONAME = 6, 1, 14
_FATBIN = struct.Struct("<IHHQ")  # magic, version, size of this header, size of what follows
_FATBIN_MAGIC = 0xBA55ED50
_CODE = struct.Struct("<HHIQ12xI")  # kind, version, size of this header, size of the code, …, architecture
_PTX, _CUBIN = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCode:
    """Architectures as CUDA numbers them (``90`` for 9.0): machine code, and PTX that newer GPUs compile."""

    cubin: tuple[int, ...]
    ptx: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    name: str
    kind: int
    link: int
    data: bytes


def needed(elf: bytes) -> tuple[str, ...]:
    """The DT_NEEDED names of a 64-bit little-endian ELF object, in order.

    Raises:
        ValueError: it is not one.
    """
    return tuple(_dynamic(elf, _DT_NEEDED))


def soname(elf: bytes) -> str | None:
    """The DT_SONAME of a 64-bit little-endian ELF object: the name that the loader knows it by.

    Raises:
        ValueError: it is not one.
    """
    return next(iter(_dynamic(elf, _DT_SONAME)), None)


def _dynamic(elf: bytes, wanted: int) -> list[str]:
    """The strings that entries of one kind in the dynamic section name."""
    sections = _sections(elf)
    names: list[str] = []
    for section in sections:
        if section.kind == _DYNAMIC:
            if section.link >= len(sections) or len(section.data) % 16:
                raise ValueError("its dynamic section is damaged")
            strings = sections[section.link].data
            for tag, value in struct.iter_unpack("<QQ", section.data):
                if tag == wanted:
                    names.append(_string(strings, value))
    return names


def gpu_code(elf: bytes) -> GpuCode:
    """The GPU code in an ELF object's ``.nv_fatbin`` section; nothing when it has none.

    Raises:
        ValueError: it is not an ELF object, or the section is damaged.
    """
    found: dict[int, set[int]] = {_CUBIN: set(), _PTX: set()}
    for section in _sections(elf):
        if section.name == ".nv_fatbin":
            for kind, architecture in _codes(section.data):
                found.setdefault(kind, set()).add(architecture)
    return GpuCode(cubin=tuple(sorted(found[_CUBIN])), ptx=tuple(sorted(found[_PTX])))


def _codes(data: bytes) -> Iterator[tuple[int, int]]:
    """Kind and architecture of each code; fat binaries follow each other, aligned to eight bytes."""
    at = 0
    while at + _FATBIN.size <= len(data):
        magic, _, header, size = _FATBIN.unpack_from(data, at)
        if magic != _FATBIN_MAGIC:
            if any(data[at : at + 8]):
                raise ValueError("its .nv_fatbin section is damaged")
            at += 8
            continue
        start, end = at + header, at + header + size
        if end > len(data):
            raise ValueError("its .nv_fatbin section is cut off")
        if header < _FATBIN.size:
            raise ValueError("its .nv_fatbin section is damaged")
        while start + _CODE.size <= end:
            kind, _, code_header, code_size, architecture = _CODE.unpack_from(data, start)
            if code_header < _CODE.size:
                raise ValueError("its .nv_fatbin section is damaged")
            yield kind, architecture
            start += code_header + code_size
        at = -(-end // 8) * 8


def _sections(elf: bytes) -> list[_Section]:
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("it is not a 64-bit ELF object")
    try:
        (table,) = struct.unpack_from("<Q", elf, 0x28)
        size, count, names_at = struct.unpack_from("<HHH", elf, 0x3A)
        headers = [_SECTION.unpack_from(elf, table + index * size) for index in range(count)]
    except (struct.error, OverflowError) as error:
        raise ValueError("its section headers are cut off") from error
    if names_at >= count:
        return []
    names = _bytes(elf, headers[names_at])
    return [
        _Section(name=_string(names, h[0]), kind=h[1], link=h[6], data=b"" if h[1] == 8 else _bytes(elf, h))
        for h in headers
    ]


def _bytes(elf: bytes, header: tuple[int, ...]) -> bytes:
    offset, size = header[4], header[5]
    if offset + size > len(elf):
        raise ValueError("one of its sections is cut off")
    return elf[offset : offset + size]


def _string(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at)
    return strings[at : end if end >= 0 else len(strings)].decode("utf-8", "replace")
