"""What a conda package says that it brings (``info/paths.json``, ``info/link.json``), read before it is linked."""

from __future__ import annotations

import bz2
import io
import lzma
import posixpath
import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import msgspec
import zstandard

from envbuild.environment.prefix import UNFINISHED
from envbuild.lock import CondaPackage
from envbuild.oci.tar_reader import entries

LONGEST, LONGEST_NAME, DEEPEST = 2048, 255, 128
"""Bytes of a path in the prefix and of each of its names, and how many names it has, at most."""

_INFO_LIMIT = 256 << 20
_PATHS, _LINK, _FILES = "info/paths.json", "info/link.json", "info/files"
_RESERVED = ("conda-meta", UNFINISHED, "__clobbers__")
_ENTRY_POINT = re.compile(r"([A-Za-z0-9_.-]+)\s*=\s*(\S.*)")
_FAULTS = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, zstandard.ZstdError, struct.error, EOFError),
    *(OSError, ValueError, LookupError, OverflowError, RuntimeError),
)  # fmt: skip


class Damaged(Exception):
    """A file that is no conda package, or a damaged one: the reason."""


class Hostile(Exception):
    """A package that names a path which no package may have: the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """One path in the prefix. Two of the same ``kind`` and ``content`` are the same; ``None`` is like nothing else.

    ``stored`` is the path in the package.
    """

    path: str
    kind: Literal["file", "link", "folder", "command"]
    content: str | None
    stored: str


class _Path(msgspec.Struct, frozen=True):
    path: str = msgspec.field(name="_path")
    path_type: Literal["hardlink", "softlink", "directory"] = "hardlink"
    sha256: str | None = None
    prefix_placeholder: str | None = None


class _Paths(msgspec.Struct, frozen=True):
    paths: tuple[_Path, ...]


class _NoArch(msgspec.Struct, frozen=True):
    entry_points: tuple[str, ...] = ()


class _Link(msgspec.Struct, frozen=True):
    noarch: _NoArch | None = None


def brought(package: CondaPackage, file: Path, site: str) -> list[Brought]:
    """What linking the package makes in the prefix.

    Args:
        package: which.
        file: where its file lies, under whatever name.
        site: the folder of Python's packages, relative to the prefix.

    Raises:
        Damaged: the file is no such package.
        Hostile: a path that leads out of the prefix, or that is not a package's.
    """
    wanted = {_PATHS, _FILES, _LINK} if package.noarch == "python" else {_PATHS, _FILES}
    with _readable():
        info = _info(file, package.file, wanted)
        if _PATHS in info:
            listed = msgspec.json.decode(info[_PATHS], type=_Paths).paths
        elif _FILES in info:  # packages before 2017
            listed = tuple(_Path(path=line) for line in info[_FILES].decode().splitlines() if line)
        else:
            raise Damaged(f"it has no {_PATHS}")
        link = msgspec.json.decode(info[_LINK], type=_Link).noarch if _LINK in info else None
    found = [_placed(item, package, site) for item in listed]
    for text in link.entry_points if link is not None else ():
        match = _ENTRY_POINT.fullmatch(text.strip())
        if match is None:
            raise Damaged(f"{text[:80]!r} is no entry point")
        path = f"bin/{match[1]}"
        found.append(Brought(path=path, kind="command", content=match[2], stored=path))
    for item in found:
        _check(item.path)
    return found


def link_targets(package: CondaPackage, file: Path) -> Mapping[str, str]:
    """The targets of the package's symbolic links, by their path in the package: reads all of it.

    Raises:
        Damaged: the file is no such package.
    """
    found: dict[str, str] = {}
    names: set[str] = set()
    with _readable(), _tar(file, package.file, "pkg-") as archive:
        for entry, _ in entries(archive):
            name = posixpath.normpath(entry.name).lstrip("/")
            linked = entry.issym() or entry.islnk() or name in found
            if name in names and linked:  # one of them is what will be there: which, depends on who unpacks
                raise ValueError(f"it has {name[:200]!r} twice")
            names.add(name)
            if entry.issym():
                found[name] = entry.linkname
    return found


def twin_of(path: str) -> str:
    """What two paths have in common that look the same."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


@contextmanager
def _readable() -> Iterator[None]:
    """Turn what the readers raise into :class:`Damaged`; a disk that cannot be read is said as it is."""
    try:
        yield
    except _FAULTS as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise Damaged(str(error) or type(error).__name__) from error


def _info(file: Path, name: str, wanted: set[str]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    with _tar(file, name, "info-") as archive:
        for entry, content in entries(archive):
            own = entry.name.removeprefix("./")
            if own not in wanted or content is None:
                continue
            if entry.size > _INFO_LIMIT:
                raise ValueError(f"{own} has {entry.size} bytes")
            found[own] = content.read()
            if len(found) == len(wanted):
                break
    return found


@contextmanager
def _tar(file: Path, name: str, part: str) -> Iterator[IO[bytes]]:
    """A package's tar as a stream: the part ``info-`` or ``pkg-`` of a .conda, or the one of a .tar.bz2."""
    if name.endswith(".tar.bz2"):
        with bz2.open(file) as plain:
            yield cast("IO[bytes]", plain)
        return
    with zipfile.ZipFile(file) as container:
        members = [
            item for item in container.namelist() if item.startswith(part) and item.endswith(".tar.zst")
        ]
        if len(members) != 1:
            raise ValueError(f"it has {len(members)} parts {part}*.tar.zst")
        with container.open(members[0]) as packed:
            reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            yield cast("IO[bytes]", io.BufferedReader(reader, 1 << 18))


def _placed(item: _Path, package: CondaPackage, site: str) -> Brought:
    """Where a path of the package goes (conda's rules for ``noarch: python``)."""
    kinds: Mapping[str, Literal["file", "link", "folder"]] = {"hardlink": "file", "softlink": "link"}
    path = item.path.rstrip("/") if item.path_type == "directory" else item.path
    if package.noarch == "python":
        for start, folder in (("site-packages/", f"{site}/"), ("python-scripts/", "bin/")):
            if path.startswith(start):
                path = folder + path.removeprefix(start)
    sha256 = f"{item.sha256} {item.prefix_placeholder or ''}" if item.sha256 else None
    return Brought(path=path, kind=kinds.get(item.path_type, "folder"), content=sha256, stored=item.path)


def _check(path: str) -> None:
    """Refuse a path that another reader could take for another one, or that is not a package's."""
    parts = path.split("/")
    reason = None
    if path.startswith("/") or ".." in parts:
        reason = "leads out of the prefix"
    elif "" in parts or "." in parts:
        reason = "can be spelt in another way"
    elif any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) < 0xE000 for letter in path):
        reason = "has a control character"
    elif parts[0].casefold() in _RESERVED:
        reason = "is conda's or envbuild's own"
    elif (
        len(parts) > DEEPEST
        or len(path.encode()) > LONGEST
        or any(len(p.encode()) > LONGEST_NAME for p in parts)
    ):
        reason = "is longer or deeper than any package's"
    if reason:
        raise Hostile(f"it names {path[:200]!r}, which {reason}")
