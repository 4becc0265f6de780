"""A tree as a sorted, plain tar: called through ``Sandbox.call``, as the sandbox's uid 0; read from inside of it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.tar import END, header, padding
from envbuild.oci.trees import too_long
from envbuild.sandbox.inside import within

_COPY = 1 << 20
_IN_THE_WAY = {
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR,
    errno.ENOTEMPTY, errno.ENXIO, errno.EPERM,
}  # fmt: skip


def pack(arguments: Mapping[str, object], advance: Callable[[int], None]) -> dict[str, object]:
    """Write everything below ``root`` to the tar ``out``: sorted by path, hard links kept, constant mtime.

    Sockets, pipes and device nodes are left out.

    Returns:
        ``diff_id`` and ``size`` (bytes) of the tar.

    Raises:
        EnvbuildError: exit 5, ``tree-hostile``: the tree has what a layer cannot have.
    """
    with Path(str(arguments["out"])).open("wb", buffering=_COPY) as stream:
        packed = within(str(arguments["root"]), lambda _: _pack(stream, advance))
    assert isinstance(packed, dict)
    return packed


def _pack(stream: IO[bytes], advance: Callable[[int], None]) -> dict[str, object]:
    writer = _Writer("/", advance)
    with tree_guarded():
        for relative in _paths("/"):
            writer.add(relative, stream)
        writer.write(END, stream)
        stream.flush()
    return {"diff_id": f"sha256:{writer.sha256.hexdigest()}", "size": writer.size}


def hostile(path: str, reason: str) -> EnvbuildError:
    """A tree that its packages left in a state that no image can have."""
    return EnvbuildError(
        "tree-hostile",
        f"what the packages leave cannot become an image: {path[:200]!r} {reason}",
        hint="no sound package does this: lock other versions (`envbuild lock REF --upgrade`), or from another index",
        exit=Exit.VERIFY,
    )


@contextmanager
def tree_guarded() -> Iterator[None]:
    """Say of a path in the tree that it is in the way, where that is all that is wrong."""
    try:
        yield
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        raise hostile(
            str(error.filename or error.filename2 or ""), f"is in the way: {error.strerror}"
        ) from error


def _paths(root: str) -> Iterator[str]:
    """Every path below ``root``: folders before their content, names by their bytes."""
    pending = [""]
    while pending:
        relative = pending.pop()
        if reason := too_long(relative):
            raise hostile(relative, reason)
        if relative.rpartition("/")[2].startswith(".wh."):
            raise hostile(relative, "has a name that hides files in a layer")
        if relative:
            yield relative
        path = os.path.join(root, relative)
        if os.path.isdir(path) and not os.path.islink(path):
            inner = sorted(os.listdir(path), key=os.fsencode, reverse=True)
            pending.extend(f"{relative}/{name}" if relative else name for name in inner)


class _Writer:
    def __init__(self, root: str, advance: Callable[[int], None]) -> None:
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
