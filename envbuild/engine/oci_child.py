"""Starts an OCI runtime in a mount and process namespace of its own. Called through :meth:`Sandbox.call`.

The overlay is mounted only here, and whatever kills this process kills the container: the runtime's process
namespace ends with its first process, which dies with its parent.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox.syscalls import (
    CLONE_NEWNS,
    CLONE_NEWPID,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    die_with_parent,
    mount,
    unshare,
)

_SETUP_FAILED = 125
# crun refuses to start where both versions of cgroups are mounted, even when told to use neither: hide them.
_CGROUPS = "/sys/fs/cgroup"
_HYBRID = f"{_CGROUPS}/unified"


def run(arguments: Mapping[str, object], _advance: Callable[[int], None]) -> dict[str, object]:
    """Mount the layers at ``<bundle>/rootfs`` and run ``argv`` (the runtime) until it ends.

    Args:
        arguments: ``lowers`` (bottom first), ``bundle`` (a folder with config.json), ``argv``, ``timeout``
            (seconds or None), ``user_namespace``, ``hide_cgroups`` (the runtime shall not see them).

    Returns:
        ``status``: the runtime's exit status, or None when the time was up.

    Errors (exit 7): ``oci-setup``, when namespaces or overlayfs are refused.
    """
    timeout = arguments["timeout"]
    ready_r, ready_w = os.pipe()
    try:
        unshare(CLONE_NEWNS | CLONE_NEWPID)
    except OSError as error:
        raise _setup_error(str(error)) from error
    pid = os.fork()
    if pid == 0:
        os.close(ready_r)
        _first_process(arguments, ready_w)
    os.close(ready_w)
    with os.fdopen(ready_r, "rb") as problems:
        problem = problems.read().decode()
    deadline = None if timeout is None else time.monotonic() + float(str(timeout))
    status = _wait(pid, deadline)
    if problem:
        raise _setup_error(problem)
    return {"status": status}


def _wait(pid: int, deadline: float | None) -> int | None:
    """The exit status, or None after killing everything at the deadline."""
    if deadline is None:
        return _exit_status(os.waitpid(pid, 0)[1])
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return _exit_status(os.waitpid(pid, 0)[1])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None
    finally:
        os.close(handle)


def _first_process(arguments: Mapping[str, object], ready: int) -> NoReturn:
    """Process 1 of the namespace: mounts, starts the runtime, reaps, exits like the runtime."""
    code = _SETUP_FAILED
    try:
        die_with_parent(signal.SIGKILL)
        os.set_inheritable(ready, False)
        lowers, argv = arguments["lowers"], arguments["argv"]
        assert isinstance(lowers, list)
        assert isinstance(argv, list)
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        if arguments["hide_cgroups"] and Path(_HYBRID).is_dir():
            mount("tmpfs", _CGROUPS, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
        _overlay(lowers, Path(str(arguments["bundle"])), user_namespace=bool(arguments["user_namespace"]))
        pid = os.fork()
        if pid == 0:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.execv(argv[0], argv)  # noqa: S606 - the runtime, found by its absolute path
        os.close(ready)
        ready = -1
        while True:
            done, status = os.wait()
            if done == pid:
                code = _exit_status(status)
                break
    except Exception as error:  # told to the parent, whatever it is
        if ready >= 0:
            with suppress(OSError):
                os.write(ready, str(error).encode())
    os._exit(code)


def _overlay(lowers: Sequence[str], bundle: Path, *, user_namespace: bool) -> None:
    """Short links stand for the lowers: mount(2) takes 4096 bytes of options. What is written stays in memory."""
    stack = bundle / "stack"
    stack.mkdir()
    mount("tmpfs", str(stack), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    os.chdir(stack)
    (stack / "upper").mkdir()
    (stack / "work").mkdir()
    for number, lower in enumerate(lowers):
        (stack / str(number)).symlink_to(lower)
    names = ":".join(str(number) for number in reversed(range(len(lowers))))
    options = f"lowerdir={names},upperdir=upper,workdir=work" + (",userxattr" if user_namespace else "")
    mount("overlay", str(bundle / "rootfs"), "overlay", MS_NODEV, options)
    os.chdir("/")


def last_error(log: Path) -> str | None:
    """The last error that the runtime wrote to its JSON log."""
    found = None
    text = log.read_text(errors="replace") if log.exists() else ""
    for line in text.splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
                found = str(entry.get("msg"))
    return found


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _setup_error(reason: str) -> EnvbuildError:
    return EnvbuildError(
        "oci-setup",
        f"cannot prepare a container for the OCI runtime: {reason}",
        hint="`envbuild doctor` says what this machine allows; in a container: start it with --privileged",
        exit=Exit.ENGINE,
    )
