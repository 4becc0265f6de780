"""A tree as a sorted, plain tar: called through ``Sandbox.call``, as the sandbox's uid 0."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from envbuild.layers.tar import END, header, padding

_COPY = 1 << 20


def pack(arguments: Mapping[str, object], advance: Callable[[int], None]) -> dict[str, object]:
    """Write everything below ``root`` to the tar ``out``: sorted by path, hard links kept, constant mtime.

    Sockets, pipes and device nodes are left out.

    Returns:
        ``diff_id`` and ``size`` (bytes) of the tar.
    """
    root, out = Path(str(arguments["root"])), Path(str(arguments["out"]))
    writer = _Writer(root, advance)
    with out.open("wb", buffering=_COPY) as stream:
        for relative in _paths(root):
            writer.add(relative, stream)
        writer.write(END, stream)
    return {"diff_id": f"sha256:{writer.sha256.hexdigest()}", "size": writer.size}


def _paths(root: Path) -> Iterator[str]:
    """Every path below ``root``: folders before their content, names by their bytes."""
    pending = [""]
    while pending:
        relative = pending.pop()
        if relative:
            yield relative
        path = os.path.join(root, relative)
        if os.path.isdir(path) and not os.path.islink(path):
            inner = sorted(os.listdir(path), key=os.fsencode, reverse=True)
            pending.extend(f"{relative}/{name}" if relative else name for name in inner)


class _Writer:
    def __init__(self, root: Path, advance: Callable[[int], None]) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._root = root
        self._advance = advance
        self._linked: dict[tuple[int, int], str] = {}
        self._unreported = 0

    def write(self, data: bytes, stream: IO[bytes]) -> None:
        self.sha256.update(data)
        self.size += len(data)
        self._unreported += len(data)
        stream.write(data)
        if self._unreported >= 8 * _COPY:
            self._advance(self._unreported)
            self._unreported = 0

    def add(self, relative: str, stream: IO[bytes]) -> None:
        path = os.path.join(self._root, relative)
        found = os.lstat(path)
        common: dict[str, Any] = {
            "mode": stat.S_IMODE(found.st_mode),
            "uid": found.st_uid,
            "gid": found.st_gid,
        }
        if stat.S_ISDIR(found.st_mode):
            self.write(header(relative, "dir", **common), stream)
        elif stat.S_ISLNK(found.st_mode):
            self.write(
                header(relative, "symlink", link=os.readlink(path), **{**common, "mode": 0o777}), stream
            )
        elif stat.S_ISREG(found.st_mode):
            inode = (found.st_dev, found.st_ino)
            if found.st_nlink > 1 and inode in self._linked:
                self.write(header(relative, "hardlink", link=self._linked[inode], **common), stream)
                return
            self._linked[inode] = relative
            self.write(header(relative, "file", size=found.st_size, **common), stream)
            with open(path, "rb") as file:
                while data := file.read(_COPY):
                    self.write(data, stream)
            self.write(padding(found.st_size), stream)
