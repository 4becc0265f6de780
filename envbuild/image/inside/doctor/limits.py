"""Shared memory, locked memory, open files, processors, memory, processes: what the container was given."""

from __future__ import annotations

import os
import re

from .model import Finding, Host, State, size

SHM = "dev/shm"
SHM_FLOOR = 1 << 30
"""NCCL's documentation asks for 1 GiB (User Guide, "Troubleshooting", shared memory); Docker gives 64 MiB."""

SHM_FLAG = "--ipc=host"
OPEN_FILES = 4096
"""PyTorch's workers hold one descriptor a shared tensor (torch.multiprocessing, "file_descriptor"); 1024 run out."""

HOST_IPC = "ipc:[4026531839]"
"""The first IPC namespace of a kernel (PROC_IPC_INIT_INO in linux/proc_ns.h): what ``--ipc=host`` gives."""

PROCESSES = 1024
SYS_NICE = 23  # capability(7)


def shared_memory(host: Host) -> Finding:
    """The size of /dev/shm, which NCCL and the data loader's workers use."""
    many = len(host.gpus()) > 1
    try:
        found = os.statvfs(host.root / SHM)
    except OSError as error:
        return Finding(
            id="shared-memory",
            state=State.PROBLEM,
            detail=f"/dev/shm is not there: {error.strerror}",
            fix="start the container with shared memory: --ipc=host, or --shm-size=8g",
            flags=(SHM_FLAG,),
        )
    total, free = found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
    facts = {"bytes": total, "free_bytes": free}
    if total < SHM_FLOOR:
        return Finding(
            id="shared-memory",
            state=State.PROBLEM if many else State.WARNING,
            detail=f"/dev/shm has {size(total)}: too small for NCCL between GPUs and for data loader workers",
            fix="start the container with --ipc=host, or with --shm-size=8g",
            flags=(SHM_FLAG,),
            facts=facts,
        )
    if free < SHM_FLOOR:
        return Finding(
            id="shared-memory",
            state=State.WARNING,
            detail=f"/dev/shm has {size(total)}, but only {size(free)} free",
            fix="remove what an ended job left there (ls -la /dev/shm), or give it more",
            facts=facts,
        )
    return Finding(id="shared-memory", state=State.GOOD, detail=f"/dev/shm has {size(total)}", facts=facts)


def locked_memory(host: Host) -> Finding:
    """How much memory may be pinned: InfiniBand registers what it sends."""
    soft, hard = host.limits.get("memlock", (-1, -1))
    facts = {"soft": soft, "hard": hard}
    if soft == -1:
        return Finding(id="locked-memory", state=State.GOOD, detail="no limit", facts=facts)
    infiniband = bool(host.names("dev/infiniband", r"uverbs\d+"))
    return Finding(
        id="locked-memory",
        state=State.PROBLEM if infiniband else State.WARNING,
        detail=f"{size(soft)} may be pinned"
        + (": InfiniBand here registers gigabytes" if infiniband else ""),
        fix="start the container with --ulimit memlock=-1",
        flags=("--ulimit memlock=-1",),
        facts=facts,
    )


def open_files(host: Host) -> Finding:
    """How many files a process may have open."""
    soft, hard = host.limits.get("nofile", (-1, -1))
    facts = {"soft": soft, "hard": hard}
    if soft == -1 or soft >= OPEN_FILES:
        return Finding(
            id="open-files", state=State.GOOD, detail="no limit" if soft == -1 else str(soft), facts=facts
        )
    return Finding(
        id="open-files",
        state=State.WARNING,
        detail=f"{soft} a process: data loader workers end with 'Too many open files'",
        fix="start the container with --ulimit nofile=65536:65536"
        + (
            f", or run ulimit -n {min(hard, 65536) if hard > 0 else 65536}"
            if hard == -1 or hard > soft
            else ""
        ),
        flags=("--ulimit nofile=65536:65536",),
        facts=facts,
    )


def ipc(host: Host) -> Finding:
    """Whether the container shares the host's IPC namespace: told, never a problem by itself."""
    try:
        name = os.readlink(host.root / "proc/self/ns/ipc")
    except OSError as error:
        return Finding(id="ipc", state=State.UNKNOWN, detail=f"not shown: {error.strerror}")
    shared = name == HOST_IPC
    what = (
        "the host's namespace"
        if shared
        else "a namespace of its own: processes of other containers share no memory"
    )
    return Finding(id="ipc", state=State.GOOD, detail=what, facts={"host": shared})


def processors(host: Host) -> Finding:
    """How many processors' worth of time the container may use, against its GPUs."""
    quota = _cpu_quota(host)
    have = host.cpus if quota is None else min(host.cpus, quota)
    wanted = 2 * max(1, len(host.gpus()))
    facts = {"affinity": host.cpus, "quota": quota}
    told = f"{host.cpus}" if quota is None else f"{quota:g} (limited; {host.cpus} to choose from)"
    if have < wanted:
        return Finding(
            id="processors",
            state=State.WARNING,
            detail=f"{told} for {max(1, len(host.gpus()))} GPUs: the data loader may keep them waiting",
            fix=f"give the container {wanted} or more (docker run --cpus, --cpuset-cpus), and start fewer workers",
            facts=facts,
        )
    return Finding(id="processors", state=State.GOOD, detail=told, facts=facts)


def _cpu_quota(host: Host) -> float | None:
    two = (host.text("sys/fs/cgroup/cpu.max") or "").split()
    if len(two) == 2 and two[0].isdigit() and two[1].isdigit():
        return int(two[0]) / int(two[1])
    for folder in ("cpu", "cpu,cpuacct"):
        quota = host.number(f"sys/fs/cgroup/{folder}/cpu.cfs_quota_us")  # -1, no limit, is no number here
        period = host.number(f"sys/fs/cgroup/{folder}/cpu.cfs_period_us")
        if quota and period:
            return quota / period
    return None


def memory(host: Host) -> Finding:
    """The container's limit of memory, what is left, and whether the kernel has killed for want of it."""
    total, left = _meminfo(host, "MemTotal"), _meminfo(host, "MemAvailable")
    limit, used = _memory_limit(host)
    if limit is not None and (total is None or limit < total):
        total, left = limit, min(left if left is not None else limit, max(0, limit - (used or 0)))
    killed = _events(host, "sys/fs/cgroup/memory.events") + _events(
        host, "sys/fs/cgroup/memory/memory.oom_control"
    )
    facts = {"bytes": total, "free_bytes": left, "limit": limit, "oom_kills": killed}
    if total is None or left is None:
        return Finding(id="memory", state=State.UNKNOWN, detail="/proc/meminfo is not shown", facts=facts)
    told = f"{size(left)} of {size(total)} free" + (" (a limit of the container)" if limit == total else "")
    if killed or left < 2 << 30:
        return Finding(
            id="memory",
            state=State.WARNING,
            detail=told
            + (f"; the kernel has killed {killed} processes here for want of memory" if killed else ""),
            fix="give the container more (docker run --memory), or use fewer workers; ZeRO's offload of the optimizer "
            "needs some 16 bytes a parameter here",
            facts=facts,
        )
    return Finding(id="memory", state=State.GOOD, detail=told, facts=facts)


def _meminfo(host: Host, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", host.text("proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _memory_limit(host: Host) -> tuple[int | None, int | None]:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        number = host.number(f"sys/fs/cgroup/{limit}")
        if number is not None and number < 1 << 60:  # version 1 writes a huge number for "no limit"
            return number, host.number(f"sys/fs/cgroup/{used}")
    return None, None


def _events(host: Host, path: str) -> int:
    found = re.search(r"^oom_kill (\d+)", host.text(path) or "", re.MULTILINE)
    return int(found[1]) if found else 0


def processes(host: Host) -> Finding:
    """How many processes and threads the container may have."""
    limits = [host.number(f"sys/fs/cgroup/{path}") for path in ("pids.max", "pids/pids.max")]
    limit = next((number for number in limits if number is not None), None)
    if limit is None or limit >= PROCESSES:
        return Finding(
            id="processes",
            state=State.GOOD,
            detail="no limit" if limit is None else str(limit),
            facts={"limit": limit},
        )
    return Finding(
        id="processes",
        state=State.WARNING,
        detail=f"{limit} processes and threads: workers and OpenMP end with 'Resource temporarily unavailable'",
        fix="start the container with --pids-limit=-1",
        flags=("--pids-limit=-1",),
        facts={"limit": limit},
    )


def capabilities(host: Host) -> Finding | None:
    """SYS_NICE, where this NCCL binds host memory to a NUMA node and nothing says that it must not."""
    nccl = host.image.get("nccl")
    release = tuple(int(part) for part in re.findall(r"\d+", nccl)[:2]) if isinstance(nccl, str) else ()
    if not (2, 24) <= release <= (2, 26):
        return None
    found = re.search(r"^CapEff:\s+([0-9a-f]+)", host.text("proc/self/status") or "", re.MULTILINE)
    able = bool(found and int(found[1], 16) >> SYS_NICE & 1)
    off = host.environ.get("NCCL_CUMEM_HOST_ENABLE") == "0" or host.environ.get("NCCL_CUMEM_ENABLE") == "0"
    facts = {"sys_nice": able, "cumem_host": not off}
    if able or off:
        why = "SYS_NICE is there" if able else "NCCL_CUMEM_HOST_ENABLE=0, so none is needed"
        return Finding(id="capabilities", state=State.GOOD, detail=why, facts=facts)
    return Finding(
        id="capabilities",
        state=State.PROBLEM if len(host.gpus()) > 1 else State.WARNING,
        detail=f"NCCL {nccl} needs SYS_NICE to allocate host memory, and the container has not got it",
        fix="set NCCL_CUMEM_HOST_ENABLE=0 again, or start the container with --cap-add SYS_NICE",
        flags=("--cap-add SYS_NICE",),
        facts=facts,
    )
