"""Trees that others made: how deep they may be, walking them, removing them. None of it recurses.

Python 3.11's ``os.walk`` and ``shutil.rmtree`` call themselves once a folder, and end in a RecursionError after a
thousand; a path that is longer than the kernel takes can still be reached folder by folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DEEPEST = 128
"""Folders in each other, in what is unpacked. The base has 10; the deepest of 138 wheels has 16, installed."""

LONGEST_NAME = 255
"""Bytes of one name: what Linux's file systems take."""

LONGEST_PATH = 3072
"""Bytes of a path below its root; the kernel takes 4095 with what is before it."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def too_long(path: str) -> str | None:
    """Why a relative path is longer or deeper than what is unpacked may be; ``None`` if it is not."""
    parts = path.split("/")
    if len(parts) > DEEPEST:
        return f"lies {len(parts)} folders deep, more than {DEEPEST}"
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
        return f"has a name of more than {LONGEST_NAME} bytes"
    if len(os.fsencode(path)) > LONGEST_PATH:
        return f"has a path of more than {LONGEST_PATH} bytes"
    return None


def walk(root: str, *, leave: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every path below ``root``, relative to it, and what it is: folders before their content. Follows no link.

    Args:
        root: the folder.
        leave: a name in it that is passed over, with all below.

    Raises:
        OSError: a folder cannot be listed, for instance as its path is longer than the kernel takes.
    """
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118  # a hundred thousand of them
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if path == leave:
                    continue
                found = entry.stat(follow_symlinks=False)
                yield path, found
                if stat.S_ISDIR(found.st_mode):
                    pending.append(path)


def folder_size(root: Path) -> int:
    """Bytes that the files below ``root`` take on the disk; what cannot be read is not counted."""
    total = 0
    pending = [os.fspath(root)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


@contextmanager
def folder_below(folder: Path | str, path: str = "", *, above: int | None = None) -> Iterator[int]:
    """Open a folder that lies at the relative ``path`` below ``folder``, without following a link on the way.

    Args:
        folder: a folder; its name is followed if ``above`` is not given.
        path: names with ``/`` between.
        above: an open folder that ``folder`` is a name in.

    Raises:
        OSError: it is not there, or a link, or no folder.
    """
    fd = os.open(folder, _FOLDER if above is not None else _FOLDER & ~os.O_NOFOLLOW, dir_fd=above)
    try:
        for name in filter(None, path.split("/")):
            inner = os.open(name, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def regular_files(folder: Path | str) -> list[str]:
    """The names of the regular files in a folder that others wrote to, sorted.

    None where ``folder`` itself is a link. Links in it are left out: they may lead anywhere.
    """
    parent, name = os.path.split(folder)
    with suppress(OSError), folder_below(parent, name) as fd, os.scandir(fd) as entries:
        return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    return []


@dataclass(slots=True)
class _Level:
    """A folder that is being emptied: its name in the one above, who it is, the folders still in it."""

    name: str
    found: os.stat_result
    pending: list[str]


class _Remover:
    """Removes one tree with one open folder at a time; the way back up is ``..``."""

    def __init__(self, *, ignore_errors: bool) -> None:
        self._ignore = ignore_errors

    def remove(self, path: str) -> None:
        parent, name = os.path.split(path)
        above = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.stat(name, dir_fd=above, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                self._empty(above, name)
            self._drop(above, name, folder=stat.S_ISDIR(found.st_mode))
        finally:
            os.close(above)

    def _empty(self, above: int, name: str) -> None:
        fd = self._open(above, name)
        if fd is None:
            return
        try:
            levels = [self._level(fd, name)]
            while levels:
                level = levels[-1]
                if level.pending:
                    inner = level.pending.pop()
                    below = self._open(fd, inner)
                    if below is not None:
                        os.close(fd)
                        fd = below
                        levels.append(self._level(fd, inner))
                elif levels.pop() and levels:
                    upper = os.open("..", _FOLDER, dir_fd=fd)
                    os.close(fd)
                    fd = upper
                    if not os.path.samestat(os.fstat(fd), levels[-1].found):
                        raise OSError(f"{level.name} was moved while it was removed")
                    self._drop(fd, level.name, folder=True)
        finally:
            os.close(fd)

    def _level(self, fd: int, name: str) -> _Level:
        """Remove all but the folders of an open one."""
        found = os.fstat(fd)
        if found.st_mode & 0o700 != 0o700:
            with suppress(PermissionError):
                os.fchmod(fd, 0o700)
        pending = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.name)
                else:
                    self._drop(fd, entry.name, folder=False)
        return _Level(name, found, pending)

    def _open(self, above: int, name: str) -> int | None:
        try:
            try:
                return os.open(name, _FOLDER, dir_fd=above)
            except PermissionError:
                os.chmod(name, 0o700, dir_fd=above)  # beside an open folder
                return os.open(name, _FOLDER, dir_fd=above)
        except FileNotFoundError:
            return None
        except OSError:
            if self._ignore:
                return None
            raise

    def _drop(self, above: int, name: str, *, folder: bool) -> None:
        try:
            if folder:
                os.rmdir(name, dir_fd=above)
            else:
                os.unlink(name, dir_fd=above)
        except FileNotFoundError:
            pass
        except OSError:
            if not self._ignore:
                raise


def remove_tree(path: Path | str, *, ignore_errors: bool = False) -> None:
    """Remove a file, a link, or a folder with all that is in it; fine if there is none.

    It copes with any tree: however deep, whatever its modes, where this user may change them. Links are removed, never
    followed.

    Args:
        path: what to remove.
        ignore_errors: leave what cannot be removed.

    Raises:
        OSError: the first thing that cannot be removed; ``filename`` is then ``path``.
    """
    try:
        _Remover(ignore_errors=ignore_errors).remove(os.fspath(path))
    except FileNotFoundError:
        return
    except OSError as error:
        if not ignore_errors:
            raise OSError(error.errno or 0, error.strerror or str(error), os.fspath(path)) from error
