"""``config.json`` of an OCI bundle (OCI runtime spec 1.0.2, config.md and config-linux.md), as a pure function."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from envbuild.engine.model import RunCommand
from envbuild.engine.roots import Prepared

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the mount point, no temporary file
# What Docker gives a container's root.
_CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
]
_MASKED = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device node of the host: path, major and minor number, permission bits."""

    path: str
    major: int
    minor: int
    mode: int

    @classmethod
    def of(cls, path: str) -> Device:
        """Read the numbers of the node at ``path``, a character device."""
        found = Path(path).stat()
        return cls(
            path=path,
            major=os.major(found.st_rdev),
            minor=os.minor(found.st_rdev),
            mode=stat.S_IMODE(found.st_mode),
        )


def config(
    ready: Prepared, command: RunCommand, *, devices: tuple[Device, ...], user_namespace: bool
) -> dict[str, object]:
    """The bundle's configuration.

    Args:
        ready: what to run.
        command: terminal, network and size of /dev/shm are taken from it.
        devices: the GPUs' nodes.
        user_namespace: whether the runtime already runs in one (then only /sys of the host can be shown).
    """
    ids = {"uid": ready.user.uid, "gid": ready.user.gid, "additionalGids": list(ready.user.groups)}
    capabilities = dict.fromkeys(("bounding", "permitted", "effective"), _CAPABILITIES)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": command.tty,
            "user": ids,
            "args": list(ready.argv),
            "env": [f"{name}={value}" for name, value in ready.env.items()],
            "cwd": ready.cwd,
            "capabilities": capabilities if ready.user.uid == 0 else {"bounding": _CAPABILITIES},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": ready.hostname,
        "mounts": [*_system_mounts(command, user_namespace=user_namespace), *_own_mounts(ready)],
        "linux": {
            "namespaces": [{"type": kind} for kind in _namespaces(command)],
            "devices": [_node(device) for device in devices],
            "resources": {"devices": _rules(devices)},
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        },
    }


def _namespaces(command: RunCommand) -> list[str]:
    return ["pid", "ipc", "uts", "mount", *(() if command.network else ("network",))]


def _node(device: Device) -> dict[str, object]:
    return {
        "path": device.path,
        "type": "c",
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": 0,
        "gid": 0,
    }


def _rules(devices: tuple[Device, ...]) -> list[dict[str, object]]:
    """Everything is forbidden but these; runtimes add the standard devices themselves."""
    allowed: list[dict[str, object]] = [
        {"allow": True, "type": "c", "major": device.major, "minor": device.minor, "access": "rwm"}
        for device in devices
    ]
    return [{"allow": False, "access": "rwm"}, *allowed]


def _system_mounts(command: RunCommand, *, user_namespace: bool) -> list[dict[str, object]]:
    no = ["nosuid", "noexec", "nodev"]
    # A new sysfs belongs to a new network namespace: a user namespace that keeps the host's can only show /sys.
    if user_namespace and command.network:
        sys: dict[str, object] = _bind("/sys", "/sys", [*no, "ro"])
    else:
        sys = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*no, "ro"]}
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    shm = [*no, "mode=1777", f"size={command.shm_size}"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": no},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "mode=755", "size=65536k"],
        },
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts},
        {"destination": SHARED_MEMORY, "type": "tmpfs", "source": "shm", "options": shm},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": no},
        sys,
    ]


def _own_mounts(ready: Prepared) -> list[dict[str, object]]:
    return [
        _bind(str(mount.source.absolute()), mount.target, ["ro"] if mount.read_only else ["rw"])
        for mount in ready.mounts
    ]


def _bind(source: str, target: str, options: list[str]) -> dict[str, object]:
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", *options]}
