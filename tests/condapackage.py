"""Real conda packages (format 2, ``.conda``) that tests make, and the channel folders that they lie in."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import zstandard

TIME = 1_577_836_800
"""The mtime of every member, in seconds."""

PLACEHOLDER = "/opt/" + "placehold_" * 25
"""What stands for the prefix in a package: 255 characters, as conda-build makes it."""

assert len(PLACEHOLDER) == 255


@dataclass(frozen=True, kw_only=True)
class File:
    """A file: ``prefix`` says how :data:`PLACEHOLDER` in it is replaced, if at all; ``mtime`` in seconds."""

    data: bytes
    mode: int = 0o644
    prefix: Literal["text", "binary"] | None = None
    mtime: int = TIME


@dataclass(frozen=True, kw_only=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a package holds. A ``noarch="python"`` one has its modules under ``site-packages/``."""

    name: str
    version: str
    build: str = "0"
    build_number: int = 0
    noarch: Literal["python", "generic"] | None = None
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    files: Mapping[str, File | Link] = field(default_factory=dict)
    entry_points: tuple[str, ...] = ()
    license: str = "MIT"
    timestamp: int = TIME * 1000

    @property
    def subdir(self) -> str:
        return "noarch" if self.noarch else "linux-64"

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}-{self.build}.conda"

    def write(self, channel: Path) -> Path:
        """Write the ``.conda`` file into its subdir of a channel; the same bytes each time."""
        target = channel / self.subdir / self.file
        target.parent.mkdir(parents=True, exist_ok=True)
        stem = target.name.removesuffix(".conda")
        members = (
            ("metadata.json", b'{"conda_pkg_format_version": 2}'),
            (f"pkg-{stem}.tar.zst", _tar(self.files)),
            (f"info-{stem}.tar.zst", _tar({name: File(data=data) for name, data in self._info().items()})),
        )
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members:
                archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
        return target

    def _info(self) -> dict[str, bytes]:
        index: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": self.build_number,
            "subdir": self.subdir,
            "depends": list(self.depends),
            "constrains": list(self.constrains),
            "license": self.license,
            "timestamp": self.timestamp,
            "arch": None if self.noarch else "x86_64",
            "platform": None if self.noarch else "linux",
        }
        if self.noarch:
            index["noarch"] = self.noarch
        info = {
            "info/index.json": _json(index),
            "info/about.json": _json({"summary": f"a small {self.name}"}),
            "info/paths.json": _json(
                {"paths_version": 1, "paths": [_path(name, self.files) for name in sorted(self.files)]}
            ),
            "info/files": "".join(f"{name}\n" for name in sorted(self.files)).encode(),
        }
        if self.noarch == "python":
            info["info/link.json"] = _json(
                {
                    "noarch": {"type": "python", "entry_points": [*self.entry_points]},
                    "package_metadata_version": 1,
                }
            )
        return info


def index_channel(channel: Path) -> None:
    """Have py-rattler write the ``repodata.json`` of a channel folder."""
    from rattler.index import index_fs

    (channel / "noarch").mkdir(parents=True, exist_ok=True)
    (channel / "linux-64").mkdir(exist_ok=True)
    asyncio.run(index_fs(channel, write_zst=False, write_shards=False, force=True))


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()


def _path(name: str, files: Mapping[str, File | Link]) -> dict[str, object]:
    """The entry that conda-build writes: of a link the hash and the size of the file that it leads to."""
    entry = files[name]
    if isinstance(entry, Link):
        led_to = files.get(str(PurePosixPath(name).parent / entry.target))
        data = led_to.data if isinstance(led_to, File) else b""
        size, sha256 = len(data), hashlib.sha256(data).hexdigest()
        return {"_path": name, "path_type": "softlink", "sha256": sha256, "size_in_bytes": size}
    found: dict[str, object] = {
        "_path": name,
        "path_type": "hardlink",
        "sha256": hashlib.sha256(entry.data).hexdigest(),
        "size_in_bytes": len(entry.data),
    }
    if entry.prefix:
        found |= {"file_mode": entry.prefix, "prefix_placeholder": PLACEHOLDER}
    return found


def _tar(files: Mapping[str, File | Link]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, entry in sorted(files.items()):
            member = tarfile.TarInfo(name)
            if isinstance(entry, Link):
                member.type, member.linkname, member.mode, member.mtime = (
                    tarfile.SYMTYPE,
                    entry.target,
                    0o777,
                    TIME,
                )
                archive.addfile(member)
            else:
                member.size, member.mode, member.mtime = len(entry.data), entry.mode, entry.mtime
                archive.addfile(member, io.BytesIO(entry.data))
    return zstandard.ZstdCompressor(level=3).compress(plain.getvalue())


def files_below(
    folder: Path, target: str, *, without: frozenset[str] = frozenset()
) -> dict[str, File | Link]:
    """What lies in a folder as files of a package below ``target``; ``without`` names entries at its top."""
    found: dict[str, File | Link] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] in without or path.is_dir():
            continue
        status = path.stat()
        found[f"{target}/{relative}"] = File(
            data=path.read_bytes(), mode=stat.S_IMODE(status.st_mode) | 0o644, mtime=int(status.st_mtime)
        )
    return found
