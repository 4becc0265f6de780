"""Which GPUs and which driver this container sees, without torch."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path

from .model import Failure

DEVICES = Path("/dev")
PROC = Path("/proc/driver/nvidia/version")


def present(devices: Path = DEVICES) -> int:
    """How many GPUs the kernel shows here: ``/dev/nvidia<N>`` nodes, or 1 where WSL's ``/dev/dxg`` is.

    This is asked of the kernel and not of torch, so that a driver or a library that hides the GPUs is a failure
    and not "no GPU".
    """
    nodes = [path for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return len(nodes) or int((devices / "dxg").exists())


def driver_version(proc: Path = PROC) -> str | None:
    """The NVIDIA driver's version, from NVML, else from ``/proc/driver/nvidia/version``; ``None``: neither is there."""
    return _nvml_driver() or kernel_driver(proc)


def _nvml_driver() -> str | None:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    text = ctypes.create_string_buffer(96)
    status = nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text)))
    nvml.nvmlShutdown()
    return text.value.decode() if status == 0 else None


def kernel_driver(proc: Path = PROC) -> str | None:
    """The driver's version as its kernel module tells it, or ``None`` where that is not shown."""
    try:
        first = proc.read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", first)
    return found.group(1) if found else None


def numbers_of(version: str) -> tuple[int, ...]:
    """``(580, 65, 6)`` of ``580.65.06``: what versions are compared by."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def judge_driver(seen: str | None, floor: str | None, numbers: Mapping[str, object]) -> None:
    """The driver must be at or above a floor.

    Args:
        seen: its version, or ``None`` where nothing tells it.
        floor: the lowest version; ``None`` where none is known.
        numbers: what was measured, for a failure to keep.

    Raises:
        Failure: it is older, or not there.
    """
    if seen is None:
        raise Failure(
            expected="the driver's version, from NVML or /proc/driver/nvidia/version",
            seen="neither is there",
            hint="start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility (`docker run --gpus all`)",
            numbers=numbers,
        )
    if floor is not None and numbers_of(seen) < numbers_of(floor):
        raise Failure(
            expected=f"driver {floor} or newer",
            seen=f"driver {seen}",
            hint="install a newer driver on the host, or use an image with an older CUDA",
            numbers=numbers,
        )
