"""Files that survive a crash: atomic writes, locks between processes, and errors a person can act on."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit


class Stopped(Exception):
    """A wait, or a longer piece of work, was ended from outside."""


_NEW = re.compile(r"new-[0-9a-f]{16}")
"""The names that :func:`new_file` gives."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SAID = (
    *("No space left on device", "Disk quota exceeded", "File too large"),
    *("os error 28)", "os error 122)", "os error 27)"),
)
"""How programs say so: the C library's words, and Rust's numbers."""
_LEAST = 4096
_FORBIDDEN = {errno.EACCES, errno.EPERM}


def disk_full(path: Path | str, reason: str | None = None, *, hint: str | None = None) -> EnvbuildError:
    """The one error for a disk, a quota or a file size that is at its limit, wherever it is met: exit 7.

    Args:
        path: what was to be written.
        reason: what the system said, or what is needed.
        hint: what helps, where that is not another folder for the store.
    """
    folder = next((place for place in (Path(path), *Path(path).parents) if place.is_dir()), Path("/"))
    try:
        space = os.statvfs(folder)
        room = f"{space.f_bavail * space.f_frsize:,} bytes are free in {folder}"
    except OSError:
        room = f"how much is free in {folder} cannot be told"
    said = reason or "no space left"
    choose = "free some space (`envbuild gc` shrinks the store), or name another folder with --store or ENVBUILD_STORE"
    return EnvbuildError(
        "disk-full",
        f"{said[:1].lower()}{said[1:]}: {path} ({room})",
        hint=hint or f"{choose}; what is complete is kept",
        exit=Exit.ENGINE,
        where=str(path),
    )


def is_full(error: OSError) -> bool:
    """Whether the system says that a disk, a quota or a file size is at its limit."""
    return error.errno in _FULL


def ran_out(folder: Path, said: str) -> bool:
    """Whether a program that worked in ``folder`` failed for want of room: by its words, or by what is free there."""
    if any(word in said for word in _SAID):
        return True
    try:
        space = os.statvfs(folder)
    except OSError:
        return False
    return space.f_bavail * space.f_frsize < _LEAST


def unless_full(
    error: OSError, path: Path | str, other: EnvbuildError, *, hint: str | None = None
) -> EnvbuildError:
    """``other``, or :func:`disk_full` where that is what ``error`` says."""
    return disk_full(path, error.strerror, hint=hint) if is_full(error) else other


def storage_error(error: OSError, path: Path) -> EnvbuildError:
    """The one error for a store that cannot be used as it is: exit 2, a full disk 7 (docs/reference/store.md)."""
    reason = error.strerror or str(error)
    choose = "or name another folder with --store or ENVBUILD_STORE"
    if is_full(error):
        return disk_full(path, reason)
    if error.errno == errno.EROFS:
        id, message = "store-read-only", f"{path} is on a read-only file system"
        hint = f"mount it writable {choose}"
    elif error.errno in _FORBIDDEN:
        id, message = "store-permission", f"no permission for {path} as user {os.geteuid()}"
        hint = f"give this user the folder (chown) {choose}"
    else:
        id, message = "store-unusable", f"{path}: {reason}"
        hint = f"repair the folder {choose}"
    return EnvbuildError(id, message, hint=hint, exit=Exit.USAGE, where=str(path))


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn any ``OSError`` of the body into :func:`storage_error` about ``path``."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def present(path: Path, size: int | None = None) -> bool:
    """Whether the file is there, with ``size`` bytes if that is given.

    Raises:
        EnvbuildError: its folder cannot be searched.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(error, path) from error
    return size is None or status.st_size == size


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Writeback:
    """Has the kernel write a growing file out while it grows, so that the sync at its end finds little to do.

    Linux starts writing dirty pages at ``POSIX_FADV_DONTNEED`` and keeps those it is writing in its cache. For
    1 GiB the last sync fell from 0.4 to 0.01 seconds, and reading the file again was no slower.
    """

    _STEP = 32 << 20

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._done = 0

    def reached(self, offset: int) -> None:
        """The file is written up to ``offset``."""
        if offset - self._done >= self._STEP:
            with suppress(OSError):  # advice: some file systems take none
                os.posix_fadvise(self._handle, self._done, offset - self._done, os.POSIX_FADV_DONTNEED)
            self._done = offset


def publish(temporary: Path, final: Path) -> None:
    """Give a finished, synced file its final name, durably; a file of that name is replaced."""
    temporary.rename(final)
    sync_folder(final.parent)


class FileLock:
    """A held lock (``flock``): the kernel drops it when the last process that has it open ends.

    A child that was forked, not executed, shares it. Between threads it excludes as well.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._handle = handle

    @property
    def handle(self) -> int:
        """The open file descriptor."""
        return self._handle

    def convert(self, *, shared: bool) -> bool:
        """Try to make a shared lock exclusive, or the reverse. When that fails nothing is held any more."""
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self, *, remove: bool = False) -> None:
        """Let go; ``remove`` deletes the lock file first (the next one makes it anew)."""
        if self._handle < 0:
            return
        if remove:
            with suppress(OSError):
                self.path.unlink()
        os.close(self._handle)
        self._handle = -1


def try_lock(path: Path, *, shared: bool = False, create: bool = True) -> FileLock | None:
    """Lock the file at ``path``, or ``None`` when another holder excludes it (or it is not there).

    Raises:
        OSError: the file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        try:
            handle = os.open(path, flags, 0o644)
        except FileNotFoundError:
            if create:
                raise
            return None
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        if _is_at(handle, path):
            return FileLock(path, handle)
        os.close(handle)  # removed between opening and locking: the name means another file now


def _is_at(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def take_lock(
    path: Path,
    *,
    shared: bool = False,
    waiting: Callable[[str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> FileLock:
    """Lock the file at ``path``, waiting as long as it takes.

    Args:
        path: the lock file; it is made when missing.
        shared: several holders at once, none of them exclusive.
        waiting: called once, with the holder in words, when there is somebody to wait for.
        stop: asked between tries; yes ends the wait.

    Raises:
        EnvbuildError: the file cannot be made or opened.
        Stopped: ``stop`` said yes.
    """
    with guarded(path):
        lock = try_lock(path, shared=shared)
        if lock is None:
            if waiting is not None:
                waiting(holder(path))
            for _ in pauses():
                if stop is not None and stop():
                    raise Stopped(f"stopped while waiting for {path}")
                lock = try_lock(path, shared=shared)
                if lock is not None:
                    break
        assert lock is not None  # the loop has no other end
    return lock


def pauses() -> Iterator[None]:
    """Sleep between tries for a lock, at first 10 ms, at most 250 ms, without end."""
    pause = 0.01
    while True:
        time.sleep(pause)
        yield
        pause = min(pause * 1.5, 0.25)


def holder(path: Path) -> str:
    """Who has the lock, by ``/proc/locks`` (proc(5)); other namespaces' processes are not named there."""
    with suppress(OSError, ValueError, IndexError):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and int(fields[5].rsplit(":", 1)[1]) == inode:
                pid = int(fields[4])
                return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    return "another process"


def new_file(work: Path) -> FileLock:
    """Make an empty file in ``work``, locked, so that :func:`sweep_files` leaves it alone while we live.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        lock = try_lock(work / f"new-{secrets.token_hex(8)}")
        if lock is not None:
            return lock


def sweep_files(work: Path) -> None:
    """Remove what :func:`new_file` made for processes that have died since."""
    with guarded(work):
        for path in [path for path in work.iterdir() if _NEW.fullmatch(path.name) and path.is_file()]:
            lock = try_lock(path, create=False)
            if lock is not None:
                lock.release(remove=True)


def write_file(path: Path, data: bytes, *, work: Path) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old content or all of the new, even after a crash.

    ``work`` is a folder for unfinished files on the same file system.

    Raises:
        EnvbuildError: it cannot be written; nothing is left.
    """
    with guarded(path):
        lock = new_file(work)
        try:
            with open(lock.handle, "wb", closefd=False) as stream:
                stream.write(data)
            os.fsync(lock.handle)
            publish(lock.path, path)
        except BaseException:
            with suppress(OSError):
                lock.path.unlink()
            raise
        finally:
            lock.release()
