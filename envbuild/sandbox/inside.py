"""Work in a foreign tree, from inside it: in a process whose root it is, and which sees nothing of this machine.

What a package or an image leaves may be a link to anywhere, a pipe, a device. In that process a link leads nowhere
but into the tree, and a device node is dead. Code that works on such a tree uses absolute paths there and opens what
it needs of this machine before.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, NoReturn

from envbuild.errors import EnvbuildError
from envbuild.oci.disk import disk_full
from envbuild.sandbox.outcome import described, raise_described
from envbuild.sandbox.syscalls import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_BIND,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    die_with_parent,
    mount,
    no_devices,
    pivot_root,
    umount,
    unshare,
)

_PIPE = 1 << 20


def within(
    root: str, work: Callable[[IO[bytes]], object], feed: Callable[[IO[bytes]], None] | None = None
) -> object:
    """Call ``work`` in a child process whose root is the folder ``root``.

    This process must be uid 0 of the sandbox (:meth:`Sandbox.call`). Nothing may be imported in ``work``: what the
    tree has is no Python of ours.

    Args:
        root: the tree, whose own path is no foreign one.
        work: gets a pipe that ``feed`` writes to.
        feed: called in this process meanwhile. Its error goes before that of ``work``.

    Returns:
        What ``work`` returned; it went through JSON.

    Raises:
        EnvbuildError: what ``work`` or ``feed`` raised.
    """
    told_r, told_w = os.pipe()
    fed_r, fed_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told_r)
        os.close(fed_w)
        _child(root, work, fed_r, told_w)
    os.close(told_w)
    os.close(fed_r)
    try:
        with os.fdopen(told_r, "rb") as told:
            with suppress(BrokenPipeError), os.fdopen(fed_w, "wb", buffering=0) as pipe:
                if feed is not None:
                    with suppress(OSError):
                        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
                    feed(pipe)
            data = told.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.waitpid(pid, 0)
    if not data:
        raise RuntimeError(f"the process in {root} was killed")
    value = json.loads(data)
    try:
        raise_described(value)
    except EnvbuildError as error:
        if error.id != "disk-full":
            raise
        raise disk_full(root) from error  # the path that the child named is one of the tree's
    return value["result"]


def _child(root: str, work: Callable[[IO[bytes]], object], fed: int, told: int) -> NoReturn:
    try:
        die_with_parent(signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        enter_tree(root)
        with os.fdopen(fed, "rb", buffering=_PIPE) as pipe:
            value: dict[str, object] = {"result": work(pipe)}
    except BaseException as error:  # the parent raises it again, whatever it is
        value = described(error)
    data = memoryview(json.dumps(value).encode())
    while data:
        data = data[os.write(told, data) :]
    os._exit(0)


def enter_tree(root: str) -> None:
    """Make ``root`` the root of this process for good: no device works there, no path of this machine is left."""
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount(root, root, None, MS_BIND | MS_REC)
    os.chdir(root)
    no_devices(".", MS_NOSUID | MS_NOEXEC)
    pivot_root(".", ".")
    umount(".", MNT_DETACH)
    os.chdir("/")
    os.umask(0o022)
    sys.path.clear()
    sys.meta_path.clear()
