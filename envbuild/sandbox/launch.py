"""The helper process that becomes the sandbox: ``python -P -m envbuild.sandbox.launch SPEC_FD STATUS_FD``.

It is started afresh for each command, has one thread, and forks down a chain: the launcher (which maps ids when
there is a user namespace), the waiter (which entered the namespaces), process 1 (which sets up the root and
reaps), and the command. Each dies with the one above it. The spec comes as JSON on SPEC_FD; what goes wrong
before the command runs goes as a JSON line to STATUS_FD. The exit status is the command's, 128 + n after signal n.

A spec with ``function`` instead of ``command`` calls that function as the sandbox's uid 0, outside of any new
root; its result, and how far it is, go to STATUS_FD as JSON lines.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from types import FrameType
from typing import NoReturn

from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox.mounts import enter
from envbuild.sandbox.outcome import described
from envbuild.sandbox.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    die_with_parent,
    keep_capabilities,
    no_new_privileges,
    unshare,
)

# What Docker leaves to a container's root (capability.h): chown, dac_override, fowner, fsetid, kill, setgid,
# setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
_CAPABILITIES = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41
SETUP_FAILED = 125


class _Status:
    """STATUS_FD: JSON lines for the caller. Every process of the chain that outlives the set-up closes it."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._fd = fd

    def send(self, value: Mapping[str, object]) -> None:
        data = memoryview(json.dumps(value).encode() + b"\n")
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        os.close(self._fd)


class _Child:
    """The process below, to which a request to stop is handed on."""

    def __init__(self, pid: int, kill_with: signal.Signals) -> None:
        self.pid = pid
        self.kill_with = kill_with
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        os.kill(self.pid, self.kill_with)

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        return _exit_status(status)


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _failure(id: str, message: str, hint: str) -> EnvbuildError:
    return EnvbuildError(id, message, hint=hint, exit=Exit.ENGINE)


def _enter_user_namespace(maps: Mapping[str, object], status: _Status) -> None:
    """Go on as uid 0 of a new user namespace, in a forked child; this process waits for it and exits like it.

    ``maps`` holds the arguments of newuidmap and newgidmap after the process id, as ``uids`` and ``gids``. Those
    programs must be run from outside of the namespace.
    """
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    pid = os.fork()
    if pid:
        child = _Child(pid, signal.SIGTERM)
        os.close(ready_w)
        os.close(go_r)
        if os.read(ready_r, 1):
            _write_map("newuidmap", pid, maps["uids"])
            _write_map("newgidmap", pid, maps["gids"])
            os.write(go_w, b"1")
        os.close(go_w)
        status.close()
        os._exit(child.wait())
    os.close(ready_r)
    os.close(go_w)
    die_with_parent(signal.SIGKILL)
    try:
        unshare(CLONE_NEWUSER)
    except OSError as error:
        hint = "allow them (sudo sysctl -w user.max_user_namespaces=65536; in a container, start it with "
        hint += "--privileged), or run as root"
        message = f"this machine lets its users make no user namespaces: {error.strerror}"
        raise _failure("sandbox-user-namespace", message, hint) from error
    os.write(ready_w, b"1")
    os.close(ready_w)
    if not os.read(go_r, 1):
        os._exit(SETUP_FAILED)
    os.close(go_r)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.setgroups([])
    die_with_parent(signal.SIGKILL)


def _write_map(program: str, pid: int, arguments: object) -> None:
    assert isinstance(arguments, Sequence)
    done = subprocess.run(
        [program, str(pid), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        hint = (
            "check your lines in /etc/subuid and /etc/subgid, and that newuidmap and newgidmap are set-uid "
        )
        hint += "root (Debian: sudo apt-get install --reinstall uidmap)"
        raise _failure("sandbox-ids", f"{program} refused the ids: {done.stderr.strip()}", hint)


def _run(spec: Mapping[str, object], status: _Status) -> int:
    """Enter the namespaces, run the command, return its exit status."""
    rootfs, command = spec["rootfs"], spec["command"]
    assert isinstance(rootfs, Mapping)
    assert isinstance(command, Mapping)
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    try:
        unshare(flags if command["network"] else flags | CLONE_NEWNET)
    except OSError as error:
        hint = "run as a user with newuidmap and subordinate ids, or as real root (a container needs --privileged)"
        message = f"this machine allows no new namespaces: {error.strerror}"
        raise _failure("sandbox-namespaces", message, hint) from error
    pid = os.fork()
    if pid:
        child = _Child(pid, signal.SIGKILL)
        status.close()
        return child.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
    if not command["network"]:
        _loopback_up()
    socket.sethostname(str(command["hostname"]))
    os.umask(0o022)
    enter(rootfs, command, user_namespace=spec["maps"] is not None)
    pid = os.fork()
    if pid == 0:
        _execute(command)
    status.close()
    while True:
        done, code = os.wait()
        if done == pid:
            return _exit_status(code)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP_RUNNING))


def _execute(command: Mapping[str, object]) -> NoReturn:
    env, argv = command["env"], command["argv"]
    assert isinstance(env, dict)
    assert isinstance(argv, list)
    uid, gid = int(str(command["uid"])), int(str(command["gid"]))
    keep_capabilities(_CAPABILITIES)
    os.setgroups([gid] if gid else [])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    no_new_privileges()
    try:
        os.chdir(str(command["cwd"]))
    except OSError as error:
        message = f"cannot start in {command['cwd']}: {error.strerror}"
        raise _failure("command-not-run", message, "name a folder that is in the image") from error
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606 -- what this process is for
    except OSError as error:
        hint = "check the name, its mode, and PATH in the image"
        raise _failure("command-not-run", f"cannot run {argv[0]}: {error.strerror}", hint) from error


def _call(spec: Mapping[str, object], status: _Status) -> int:
    """Call ``package.module:function`` with (arguments, advance) and send what it returns."""
    module, _, name = str(spec["function"]).partition(":")
    os.umask(0o022)

    def advance(amount: int) -> None:
        status.send({"advance": amount})

    status.send({"result": getattr(importlib.import_module(module), name)(spec["arguments"], advance)})
    return 0


def main() -> NoReturn:
    """The process's entry point."""
    status = _Status(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
    with os.fdopen(int(sys.argv[1]), "rb") as stream:
        data = stream.read()
    code = SETUP_FAILED
    try:
        spec = json.loads(data)
        if os.getppid() == spec["parent"]:
            if spec["maps"] is not None:
                _enter_user_namespace(spec["maps"], status)
            code = (_run if "command" in spec else _call)(spec, status)
    except Exception as error:  # the caller raises it again, whatever it is
        status.send(described(error))
    os._exit(code)


if __name__ == "__main__":
    main()
