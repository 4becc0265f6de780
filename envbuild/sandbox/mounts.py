"""The sandbox's root: overlay, /proc, /dev, /sys, /tmp and binds, pivot_root. Runs as its process 1.

Sources are opened before anything is mounted and named through ``/proc/self/fd``, so that it does not matter
what the mounts hide. Targets are made in a chroot, so that symbolic links in them cannot lead outside; after
pivot_root alone they could, since ``/..`` is the old root as long as that is mounted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox.inside import within
from envbuild.sandbox.syscalls import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    make_read_only,
    mount,
    no_devices,
    pivot_root,
    umount,
    unshare,
)

_BASE = "/tmp"
_MOST_TEXT = 4 << 20
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_PROC_READ_ONLY = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")


def _failure(id: str, message: str, hint: str) -> EnvbuildError:
    return EnvbuildError(id, message, hint=hint, exit=Exit.ENGINE)


def enter(rootfs: Mapping[str, object], command: Mapping[str, object], *, user_namespace: bool) -> None:
    """Set everything up and make it the root of this process.

    Args:
        rootfs: ``Rootfs.to_dict()``.
        command: ``Command.to_dict()``.
        user_namespace: whether uid 0 here is an ordinary user outside.

    Raises:
        EnvbuildError: with what is missing.
    """
    held = _Held()
    outside = os.open("/", os.O_PATH | os.O_CLOEXEC)
    lowers = [held.path(path) for path in _strings(rootfs["lowers"])]
    upper = rootfs["upper"]
    held_upper = _hold_upper(held, str(upper), bool(lowers)) if upper is not None else None
    binds = _binds(held, command)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", _BASE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    root = _overlay(lowers, held_upper, user_namespace=user_namespace)
    os.chdir("/proc")
    os.chroot(root)
    _proc(user_namespace=user_namespace)
    _dev(int(str(command["shm_size"])))
    _folder("/tmp")
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for source, target, read_only in binds:
        _bind(source, target, read_only=read_only)
    os.fchdir(outside)
    os.chroot(".")
    os.chdir(root)
    pivot_root(".", ".")
    umount(".", MNT_DETACH)
    os.chdir("/")
    os.close(outside)
    held.close()


def read_files(arguments: Mapping[str, object], _advance: Callable[[int], None]) -> dict[str, str]:
    """The text of files in stacked layers, as a container sees them. Called through :meth:`Sandbox.call`.

    Args:
        arguments: ``lowers`` (bottom first), ``names`` (absolute paths there), ``user_namespace``.

    Returns:
        By name; what is no file, or is not there, is left out. Of a large file the first part.
    """
    names = _strings(arguments["names"])
    unshare(CLONE_NEWNS)
    held = _Held()
    lowers = [held.path(path) for path in _strings(arguments["lowers"])]
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", _BASE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    root = _overlay(lowers, None, user_namespace=bool(arguments["user_namespace"]))
    found = within(root, lambda _: {name: text for name in names if (text := _text(name)) is not None})
    assert isinstance(found, dict)
    return found


def _text(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with open(fd, "rb") as stream:
        return stream.read(_MOST_TEXT).decode("utf-8", "replace")


def _folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        message = f"the image's {path} is no folder, and none can be made there: {error.strerror}"
        raise _failure("sandbox-root", message, "use an image where it is a folder, or missing") from error


class _Held:
    """Paths of the host, opened so that they can be named whatever is mounted over them."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def path(self, path: str) -> str:
        """A name for ``path`` that stays good."""
        try:
            self._fds.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
        except OSError as error:
            hint = "give a path that exists and that you can read"
            raise _failure("sandbox-path", f"{path}: {error.strerror}", hint) from error
        return f"/proc/self/fd/{self._fds[-1]}"

    def close(self) -> None:
        """Let the command's ``/proc/1/fd`` lead nowhere."""
        for fd in self._fds:
            os.close(fd)


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, Sequence) else []


def _hold_upper(held: _Held, upper: str, stacked: bool) -> tuple[str, str]:
    """The upper folder and overlayfs's work folder (unused without lowers)."""
    os.makedirs(upper, exist_ok=True)
    work = f"{upper}.work"
    if stacked:
        os.makedirs(work, exist_ok=True)
    return held.path(upper), held.path(work) if stacked else ""


def _binds(held: _Held, command: Mapping[str, object]) -> list[tuple[str, str, bool]]:
    found = [(held.path(path), path, False) for path in (*_DEVICES, *_strings(command["devices"]))]
    if os.path.isdir("/sys"):
        found.append((held.path("/sys"), "/sys", True))
    given = command["binds"]
    assert isinstance(given, list)
    for bind in given:
        found.append((held.path(str(bind["source"])), str(bind["target"]), bool(bind["read_only"])))
    return found


def _overlay(lowers: Sequence[str], upper: tuple[str, str] | None, *, user_namespace: bool) -> str:
    """Mount the root below ``_BASE``. Short links stand for the lowers: mount(2) takes 4096 bytes of options."""
    root = f"{_BASE}/root"
    os.mkdir(root)
    if not lowers:
        mount(upper[0] if upper else _BASE, root, None, MS_BIND | MS_REC)
        no_devices(root)
        return root
    os.chdir(_BASE)
    for number, lower in enumerate(lowers):
        os.symlink(lower, str(number))
    if upper is None:
        os.mkdir("upper")
        os.mkdir("work")
    else:
        os.symlink(upper[0], "upper")
        os.symlink(upper[1], "work")
    stack = ":".join(str(number) for number in reversed(range(len(lowers))))
    options = f"lowerdir={stack},upperdir=upper,workdir=work" + (",userxattr" if user_namespace else "")
    try:
        mount("overlay", root, "overlay", MS_NODEV, options)
    except OSError as error:
        raise _overlay_error(error, upper is not None, user_namespace=user_namespace) from error
    return root


def _overlay_error(error: OSError, kept: bool, *, user_namespace: bool) -> EnvbuildError:
    if error.errno == errno.ENODEV:
        hint = "load the module: sudo modprobe overlay"
    elif kept and error.errno == errno.EINVAL:
        hint = "put the store on a filesystem that is not itself an overlay: --store FOLDER or ENVBUILD_STORE"
    elif user_namespace and error.errno == errno.EPERM:
        hint = "overlayfs in user namespaces needs Linux 5.11: use a newer kernel, or run as root"
    else:
        hint = "the kernel's log (dmesg) names the reason; a local filesystem such as ext4 or xfs works"
    return _failure("sandbox-overlay", f"cannot mount the layers with overlayfs: {error.strerror}", hint)


def _proc(*, user_namespace: bool) -> None:
    _folder("/proc")
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except PermissionError:
        # Inside a container whose own /proc is masked the kernel allows no new one: show the outer one.
        mount(".", "/proc", None, MS_BIND | MS_REC)
    if user_namespace:
        return
    for path in _PROC_READ_ONLY:
        if os.path.lexists(path):
            mount(path, path, None, MS_BIND | MS_REC)
            make_read_only(path)


def _dev(shm_size: int) -> None:
    _folder("/dev")
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755")
    for name, target in _LINKS.items():
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/dev/pts")
    os.mkdir("/dev/shm")
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"mode=1777,size={shm_size}")


def _bind(source: str, target: str, *, read_only: bool) -> None:
    """Bind ``source`` (a held path) on ``target``, which is made like it where it is missing."""
    try:
        if stat.S_ISDIR(os.stat(source).st_mode):
            os.makedirs(target, exist_ok=True)
        elif not os.path.exists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            Path(target).touch()
        mount(source, target, None, MS_BIND | MS_REC)
        if read_only:
            make_read_only(target)
    except OSError as error:
        message = f"cannot show a path of this machine as {target} in the sandbox: {error.strerror}"
        raise _failure("sandbox-bind", message, "check the path and that its target is free") from error
