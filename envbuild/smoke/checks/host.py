"""``host``: the driver, the state of the GPUs, and the limits that this container was started with.

It comes last, so that it sees what the other checks' work did to the GPUs. It needs no torch.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

from .. import gpus
from ..causes import driver_folder, without_link
from ..context import Context
from ..cuda import BLACKWELL_FLOOR
from ..gpus import judge_driver
from ..model import Failure
from ..nvml import (
    DRIVER_NOT_LOADED,
    LIBRARY_MISMATCH,
    NO_PERMISSION,
    GpuState,
    NvmlError,
    Reading,
    read_nvml,
    slowed,
)

SHM = Path("/dev/shm")  # noqa: S108 -- a file is made there and removed, as NCCL does
SEGMENT = 33_030_532
"""Bytes of one of NCCL's shared memory segments, as its message "failed to extend /dev/shm/nccl-..." names them."""

SHM_WANTED = 1 << 30
"""Bytes of /dev/shm that NVIDIA's documentation of NCCL asks for in containers (``--shm-size=1g``)."""

OPEN_FILES = 1024
"""Below this, which is what Linux gives by default, data loaders and NCCL run out of file handles."""

BLACKWELL = 10
FLAGS = "add --ipc=host (or --shm-size=1g) and --ulimit memlock=-1 to `docker run`"
CAPABILITIES = (
    "start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility (`docker run --gpus all`), or by "
    "`envbuild run --gpus all`"
)
SYSTEM = {
    -1: f"the driver's libcuda.so.1 is not in the container: {CAPABILITIES}",
    802: "start nvidia-fabricmanager on the host: GPUs behind an NVSwitch need it, in the driver's version",
    803: "libcuda and the kernel's module are of different versions: reboot the host after a driver update",
}
"""CUresult of cuInit that has a known cure; -1: there is no libcuda.so.1."""

NVML: dict[int | None, str] = {
    None: CAPABILITIES,
    LIBRARY_MISMATCH: "the driver was updated while its old module is loaded: reboot the host",
    DRIVER_NOT_LOADED: "load the driver's module on the host (sudo modprobe nvidia), or run `nvidia-smi` there",
    NO_PERMISSION: "let this user read and write /dev/nvidia* (ls -l /dev/nvidia*)",
}
"""nvmlReturn_t that has a known cure; ``None``: there is no library."""


def run(context: Context) -> dict[str, Any]:
    """The driver, the GPUs by NVML and CUDA and the kernel, then the limits."""
    numbers: dict[str, Any] = {"shm": _space(), "limits": _limits()}
    reading = _nvml(numbers)
    numbers |= {"driver": reading.driver, "floor": context.expectations.driver_floor}
    numbers["gpus"] = [gpu.to_dict() for gpu in reading.gpus]
    judge_driver(reading.driver, context.expectations.driver_floor, numbers)
    if any(gpu.capability is not None and gpu.capability[0] >= BLACKWELL for gpu in reading.gpus):
        judge_driver(reading.driver, BLACKWELL_FLOOR, numbers)
    _all_there(context, reading, numbers)
    for gpu in reading.gpus:
        judge_memory(gpu, numbers)
        _warn(context, gpu)
    _shared_memory(context, numbers)
    _warn_of_limits(context, numbers["limits"])
    folder = driver_folder()
    if folder is not None and not (folder / "libcuda.so").exists():
        context.warn(without_link(folder))
    return numbers


def _nvml(numbers: dict[str, Any]) -> Reading:
    try:
        return read_nvml()
    except NvmlError as error:
        raise Failure(
            expected="NVML, the driver's own answers, in libnvidia-ml.so.1",
            seen=str(error),
            hint=NVML.get(error.code, "look at the host's dmesg for lines with Xid or NVRM"),
            numbers=numbers,
        ) from error


def _all_there(context: Context, reading: Reading, numbers: dict[str, Any]) -> None:
    """No GPU was lost since the suite started, and CUDA sees those that NVML sees."""
    lost = [f"GPU {gpu.index}: {gpu.lost}" for gpu in reading.gpus if gpu.lost]
    nodes = gpus.present()
    if nodes < context.nodes:
        lost.append(f"the kernel showed {context.nodes} GPU(s) when the suite started, and now {nodes}")
    if len(reading.gpus) < context.gpus:
        lost.append(f"NVML knows {len(reading.gpus)} GPU(s) of {context.gpus}")
    if lost:
        raise Failure(
            expected=f"{context.gpus} GPU(s), as when the suite started",
            seen="\n".join(lost),
            hint="a GPU fell off the bus: look for Xid 79 in the host's dmesg; drain the machine and reboot it",
            numbers=numbers,
        )
    status, count = cuda_count()
    numbers["cuda"] = {"status": status, "gpus": count}
    if status != 0 or (count < len(reading.gpus) and not any(gpu.mig for gpu in reading.gpus)):
        raise Failure(
            expected=f"CUDA to see the {len(reading.gpus)} GPU(s) that NVML sees",
            seen=f"cuInit: {status}, {count} GPU(s)",
            hint=_why_fewer(status),
            numbers=numbers,
        )


def _why_fewer(status: int) -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and status not in SYSTEM:
        return f"CUDA_VISIBLE_DEVICES is {hidden!r}: unset it"
    return SYSTEM.get(status, "look at the host's dmesg for lines with Xid or NVRM, and at /dev/nvidia-uvm")


def cuda_count() -> tuple[int, int]:
    """cuInit's status, and how many GPUs the driver's own CUDA library sees; -1 where that library is not there."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return -1, 0
    status = int(library.cuInit(0))
    count = ctypes.c_int()
    if status == 0:
        status = int(library.cuDeviceGetCount(ctypes.byref(count)))
    return status, count.value


def judge_memory(gpu: GpuState, numbers: dict[str, Any]) -> None:
    """No memory error that could not be corrected, and no repair that waits or failed.

    Raises:
        Failure: what was seen, and what to do with the GPU.
    """
    where = f"GPU {gpu.index} ({gpu.name}, {gpu.uuid})"
    pending, failed = gpu.remap or (False, False)
    problems = [
        (failed, "a memory row could not be remapped", "the GPU has to be replaced"),
        (
            bool(gpu.uncorrected),
            f"{gpu.uncorrected} uncorrected memory error(s) since the driver was loaded",
            "results may be wrong: drain the machine, `nvidia-smi --gpu-reset` or reboot, and run the suite again",
        ),
        (pending, "a memory row waits to be remapped", "`nvidia-smi --gpu-reset` or a reboot does that"),
    ]
    for wrong, seen, hint in problems:
        if wrong:
            raise Failure(
                expected="no uncorrected memory errors, and no repair outstanding",
                seen=f"{where}: {seen}",
                hint=hint,
                numbers=numbers,
            )


def _warn(context: Context, gpu: GpuState) -> None:
    where = f"GPU {gpu.index} ({gpu.name})"
    for meaning in slowed(gpu.reasons or 0):
        context.warn(f"{where}: {meaning}")
    if gpu.ecc is False:
        context.warn(f"{where}: ECC is off, so memory errors go unseen (`nvidia-smi -e 1`, then reboot)")
    if gpu.uncorrected_ever:
        context.warn(
            f"{where}: {gpu.uncorrected_ever} uncorrected memory error(s) in its life, none since loading"
        )
    if gpu.mode not in (None, "default"):
        context.warn(f"{where}: compute mode {gpu.mode}: run one check at a time (--jobs 1)")
    if gpu.mig:
        context.warn(f"{where}: MIG is on: the checks see its first instance")


def _space() -> dict[str, int] | None:
    """Size and free bytes of /dev/shm."""
    try:
        found = os.statvfs(SHM)
    except OSError:
        return None
    return {"size": found.f_frsize * found.f_blocks, "free": found.f_frsize * found.f_bavail}


def _shared_memory(context: Context, numbers: dict[str, Any]) -> None:
    """Room for one of NCCL's segments a GPU is really taken, since a full /dev/shm has a size too."""
    wanted = SEGMENT * max(1, context.gpus)
    try:
        with tempfile.TemporaryFile(dir=SHM) as file:
            os.posix_fallocate(file.fileno(), 0, wanted)
    except OSError as error:
        raise Failure(
            expected=f"{wanted:,} bytes of shared memory in {SHM}: one NCCL segment a GPU",
            seen=f"{error.strerror}; {numbers['shm'] or 'there is no such folder'}",
            hint=FLAGS
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS)
            else f"let this user write to {SHM} (its mode is 1777 by default)",
            numbers=numbers,
        ) from error
    if numbers["shm"]["size"] < SHM_WANTED:
        context.warn(f"{SHM} has {numbers['shm']['size'] >> 20} MiB: {FLAGS}")


def _limits() -> dict[str, int | None]:
    """Soft limits; ``None`` is unlimited."""

    def soft(which: int) -> int | None:
        found = resource.getrlimit(which)[0]
        return None if found == resource.RLIM_INFINITY else found

    return {"memlock": soft(resource.RLIMIT_MEMLOCK), "open_files": soft(resource.RLIMIT_NOFILE)}


def _warn_of_limits(context: Context, limits: dict[str, int | None]) -> None:
    memlock, files = limits["memlock"], limits["open_files"]
    if memlock is not None:
        context.warn(
            f"memlock is limited to {memlock >> 10} KiB: InfiniBand and GPUDirect need --ulimit memlock=-1"
        )
    if files is not None and files < OPEN_FILES:
        context.warn(f"{files} open files are allowed: add --ulimit nofile=65536")
