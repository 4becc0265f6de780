"""Memory that NCCL needs, and room for the store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_MEMLOCK, getrlimit

from envbuild.doctor.engines import existing
from envbuild.doctor.report import Finding, State

SHM_NEEDED = 1 << 30
"""Bytes of /dev/shm that NCCL and data loaders need at least."""
DISK_NEEDED = 15 << 30
"""Bytes for one image: artifacts and blobs about 3 GB each, unpacked layers 6 GB, the rest for building."""
_SHM = "/dev/shm"  # noqa: S108 - the mount point, no temporary file


def shared_memory() -> Finding:
    """The host's own /dev/shm: what a run without a container gets. Containers get one of their own."""
    try:
        stats = os.statvfs(_SHM)
    except OSError as error:
        return Finding(
            id="shared-memory",
            state=State.WARNING,
            detail=f"no /dev/shm: {error.strerror}",
            fix="mount one (sudo mount -t tmpfs -o size=8g shm /dev/shm); envbuild run makes its own in containers",
            facts={"bytes": 0},
        )
    size = stats.f_blocks * stats.f_frsize
    good = size >= SHM_NEEDED
    return Finding(
        id="shared-memory",
        state=State.GOOD if good else State.WARNING,
        detail=f"{_SHM} has {_size(size)}",
        fix=None
        if good
        else "NCCL wants 1 GiB: sudo mount -o remount,size=8g /dev/shm, or docker run --shm-size=8g around it",
        facts={"bytes": size},
    )


def locked_memory() -> Finding:
    """How much memory a process may pin: NCCL over RDMA, and pinned host buffers."""
    hard = getrlimit(RLIMIT_MEMLOCK)[1]
    unlimited = hard == RLIM_INFINITY
    enough = unlimited or _may_raise_limits()
    return Finding(
        id="locked-memory",
        state=State.GOOD if enough else State.WARNING,
        detail="no limit"
        if unlimited
        else f"limit {_size(hard)}" + (", which this user may raise" if enough else ""),
        fix=None if enough else "only RDMA needs more: set memlock to unlimited in /etc/security/limits.conf",
        facts={"bytes": None if unlimited else hard},
    )


def store(path: Path) -> Finding:
    """Whether the store can be written, and has room for a first image."""
    folder = existing(path)
    free = shutil.disk_usage(folder).free
    facts: dict[str, object] = {"path": str(path), "exists": path.is_dir(), "free_bytes": free}
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            id="store",
            state=State.MISSING,
            detail=f"{path}: {folder} cannot be written by this user",
            fix="name another folder with --store or ENVBUILD_STORE, or give this user the folder (chown)",
            facts=facts,
        )
    good = free >= DISK_NEEDED
    return Finding(
        id="store",
        state=State.GOOD if good else State.WARNING,
        detail=f"{path}: {_size(free)} free",
        fix=None
        if good
        else f"a first image takes up to {_size(DISK_NEEDED)}: make room (envbuild gc), or use --store on another disk",
        facts=facts,
    )


def _may_raise_limits() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, number 24 (capabilities(7))."""
    status = Path("/proc/self/status").read_text()
    bits = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(bits, 16) >> 24 & 1)


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"
