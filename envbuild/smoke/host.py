"""What the report says of the machine."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from . import gpus

PASSED_ON = ("NCCL_", "TORCH_NCCL_", "TORCH_SYMM_MEM_", "NVSHMEM_")
"""Variables that an operator of shared hardware sets and a container must not undo."""

TOLD = (*PASSED_ON, "CUDA_", "NVIDIA_", "DS_", "GLOO_", "TORCH_", "PYTORCH_", "LD_")
"""Variables (by prefix) whose values change what the checks see, and so are in the report."""


def environment(environ: dict[str, str] | None = None) -> dict[str, str]:
    """The recorded variables, by name."""
    source = os.environ if environ is None else environ
    return {name: source[name] for name in sorted(source) if name.startswith(TOLD)}


def describe(driver: str | None) -> dict[str, object]:
    """Kernel, distribution, Python, processors, memory in bytes, shared memory in bytes.

    Args:
        driver: as a check found it. NVML is not asked in this process: a driver that hangs must not hang the suite.
    """
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "system": _pretty_name(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "executable": sys.executable,
        "cpus": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "shm": _size_of("/dev/shm"),  # noqa: S108 -- measured, not written to
        "gpus": gpus.present(),
        "driver": driver or gpus.kernel_driver(),
    }


def _pretty_name() -> str | None:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values.get("PRETTY_NAME", "").strip('"') or None


def _size_of(path: str) -> int | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_frsize * found.f_blocks
