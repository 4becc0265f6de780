"""Whether the kernel lets us have what the sandbox needs. Called through :meth:`Sandbox.call`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    mount,
    unshare,
)


def namespaces(_arguments: Mapping[str, object], _advance: Callable[[int], None]) -> None:
    """Enter the sandbox's namespaces and mount something there; nothing of it outlives this process.

    Raises:
        EnvbuildError: exit 7; what forbids it, as far as that can be known.
    """
    try:
        unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET)
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV)
    except OSError as error:
        raise EnvbuildError(
            "sandbox-namespaces",
            f"this machine allows no private namespaces and mounts here: {error}",
            hint="in a container: start it with --privileged; on Ubuntu 23.10 and later: "
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; or run as real root",
            exit=Exit.ENGINE,
        ) from error
