"""Makes wheels for the tests, sound and hostile ones, byte by byte (PKWARE APPNOTE 4.3)."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

DEFLATED, STORED = 8, 0


@dataclass(frozen=True)
class Entry:
    """One zip entry. ``central`` and ``local`` override header fields to make them lie."""

    name: str | bytes
    content: bytes = b""
    mode: int = 0o100644
    method: int = DEFLATED
    zip64: bool = False
    descriptor: bool = False
    raw: bytes | None = None
    before: bytes = b""
    local: dict[str, object] = field(default_factory=dict)
    central: dict[str, object] = field(default_factory=dict)
    recorded: bool = True

    @property
    def raw_name(self) -> bytes:
        return self.name if isinstance(self.name, bytes) else self.name.encode()

    @property
    def data(self) -> bytes:
        if self.raw is not None:
            return self.raw
        return deflated(self.content) if self.method == DEFLATED else self.content


def deflated(content: bytes, level: int = 6) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    return stream.compress(content) + stream.flush()


def zip_bytes(
    entries: Sequence[Entry], *, zip64_end: bool = False, comment: bytes = b"", gap: bytes = b""
) -> bytes:
    """The zip file. ``gap`` lies between the last entry and the central directory."""
    out = bytearray()
    directory = bytearray()
    for entry in entries:
        out += entry.before
        at = len(out)
        name, data = entry.raw_name, entry.data
        truth: dict[str, object] = {
            "flags": (0 if name.isascii() else 1 << 11) | (1 << 3 if entry.descriptor else 0),
            "method": entry.method, "crc": zlib.crc32(entry.content), "compressed": len(data),
            "size": len(entry.content), "name": name, "extra": b"", "offset": at,
        }  # fmt: skip
        blank = {"crc": 0, "compressed": 0, "size": 0} if entry.descriptor else {}
        local = truth | blank | entry.local
        central = truth | entry.central
        if entry.zip64:
            local["extra"] = struct.pack("<2H2Q", 1, 16, local["size"], local["compressed"])
            central["extra"] = struct.pack(
                "<2H3Q", 1, 24, central["size"], central["compressed"], central["offset"]
            )
            full = {"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF}
            local |= full
            central |= full | {"offset": 0xFFFFFFFF}
        out += b"PK\x03\x04" + _common(local) + local["name"] + local["extra"] + data
        if entry.descriptor:
            shape = "<4sL2Q" if entry.zip64 else "<4s3L"
            out += struct.pack(shape, b"PK\x07\x08", *(truth[key] for key in ("crc", "compressed", "size")))
        directory += b"PK\x01\x02" + struct.pack("<H", 3 << 8 | 20) + _common(central)
        directory += struct.pack("<3H2L", 0, 0, 0, entry.mode << 16, central["offset"])
        directory += central["name"] + central["extra"]
    out += gap
    start = len(out)
    out += directory
    if zip64_end:
        end = len(out)
        out += struct.pack(
            "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, len(entries), len(entries), len(directory), start
        )
        out += struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    out += struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), start, len(comment)
    )
    return bytes(out + comment)


def _common(fields: dict[str, object]) -> bytes:
    return struct.pack(
        "<5H3L2H", 20, fields["flags"], fields["method"], 0, 0x21, fields["crc"], fields["compressed"],
        fields["size"], len(fields["name"]), len(fields["extra"]),
    )  # fmt: skip


def wheel_entries(
    entries: Sequence[Entry] = (), *, name: str = "demo", version: str = "1.0", tag: str = "py3-none-any",
    wheel: str = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    metadata: str = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", record: bytes | None = None,
    entry_points: str | None = None, without: Sequence[str] = (),
) -> list[Entry]:  # fmt: skip
    """``entries`` and a .dist-info folder that describes them."""
    info = f"{name}-{version}.dist-info"
    found = [*entries]
    found.append(Entry(f"{info}/METADATA", metadata.format(name=name, version=version).encode()))
    found.append(Entry(f"{info}/WHEEL", wheel.format(tag=tag).encode()))
    if entry_points is not None:
        found.append(Entry(f"{info}/entry_points.txt", entry_points.encode()))
    if record is None:
        record = record_bytes(found, own=f"{info}/RECORD")
    found.append(Entry(f"{info}/RECORD", record))
    return [entry for entry in found if entry.name not in {f"{info}/{part}" for part in without}]


def record_bytes(entries: Sequence[Entry], *, own: str) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    rows = {}
    for entry in entries:
        name = entry.raw_name.decode("utf-8", "replace")
        if entry.recorded and not name.endswith("/"):
            rows[name] = (name, "sha256=" + sha256(entry.content), len(entry.content))
    writer.writerows([*rows.values(), (own, "", "")])
    return stream.getvalue().encode()


def sha256(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def write_wheel(folder: Path, data: bytes, file: str = "demo-1.0-py3-none-any.whl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    path.write_bytes(data)
    return path


def changed(entries: Sequence[Entry], name: str, **changes: object) -> list[Entry]:
    """``entries`` with one of them changed."""
    assert any(entry.name == name for entry in entries)
    return [replace(entry, **changes) if entry.name == name else entry for entry in entries]
