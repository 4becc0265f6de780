"""A process in a folder of its own that it cannot leave, for readers that write trees: what escapes, escapes there."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from envbuild.sandbox.syscalls import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_BIND,
    MS_PRIVATE,
    MS_REC,
    mount,
    pivot_root,
    umount,
    unshare,
)

_MEMORY = 4 << 30
_FILE = 64 << 20


class ThereFailed(Exception):
    """What the other process raised; the text is its traceback."""


class Confined:
    """Calls ``work`` with an input in a child that has changed its root (as root) to an empty folder.

    The child is made at the first call and again whenever it died.
    """

    def __init__(self, work: Callable[[bytes], object]) -> None:
        self._work = work
        self._child = 0
        self._to = self._from = -1

    def __call__(self, data: bytes) -> None:
        if not self._child:
            self._start()
        try:
            _send(self._to, data)
            answer: Any = pickle.loads(_receive(self._from))
        except (EOFError, BrokenPipeError):
            _, status = os.waitpid(self._child, 0)
            os.close(self._to)
            os.close(self._from)
            self._child = 0
            raise ThereFailed(f"the process that reads died with status {status}") from None
        if isinstance(answer, str):
            raise ThereFailed(answer)
        if answer is not None:
            raise answer

    def _start(self) -> None:
        folder = tempfile.mkdtemp(dir="/dev/shm", prefix="fuzz-confined-")
        ours, self._to = os.pipe()
        self._from, theirs = os.pipe()
        self._child = os.fork()
        if self._child:
            os.close(ours)
            os.close(theirs)
            return
        os.close(self._to)
        os.close(self._from)
        try:
            self._serve(folder, ours, theirs)
        finally:
            os._exit(1)

    def _serve(self, folder: str, source: int, sink: int) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))
        os.chdir(folder)
        if os.geteuid() == 0:
            _enter(folder)
        while True:
            data = _receive(source)
            for path in Path().iterdir():
                shutil.rmtree(
                    path, ignore_errors=True
                ) if path.is_dir() and not path.is_symlink() else path.unlink()
            try:
                self._work(data)
                answer: object = None
            except Exception as error:
                answer = error if type(error).__name__ == "EnvbuildError" else _told(error)
            _send(sink, pickle.dumps(answer))


def _enter(folder: str) -> None:
    """Make the folder this process's root, in mounts of its own."""
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount(folder, folder, None, MS_BIND)
    os.chdir(folder)
    pivot_root(".", ".")
    umount(".", MNT_DETACH)
    os.chdir("/")


def _told(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/envbuild/" in frame.filename] or list(frames)
    place = f"{type(error).__name__} in {own[-1].name}"
    return f"{place}: " + "".join(traceback.format_exception(error, limit=-6))


def _send(handle: int, data: bytes) -> None:
    view = memoryview(len(data).to_bytes(8, "big") + data)
    while view:
        view = view[os.write(handle, view) :]


def _receive(handle: int) -> bytes:
    return _exactly(handle, int.from_bytes(_exactly(handle, 8), "big"))


def _exactly(handle: int, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        data = os.read(handle, size - len(found))
        if not data:
            raise EOFError
        found += data
    return bytes(found)
