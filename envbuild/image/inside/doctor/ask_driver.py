"""Ask NVML or CUDA's driver API by ctypes and print the answer as JSON: ``ask_driver.py nvml|cuda``.

A process of its own, because a driver that hangs or crashes must not take the doctor with it. Constants are those of
nvml.h and cuda.h.
"""

from __future__ import annotations

import ctypes
import json
import sys

ECC_UNCORRECTED, ECC_VOLATILE = 1, 0  # nvmlMemoryErrorType_t, nvmlEccCounterType_t
P2P_READ = 0  # nvmlGpuP2PCapsIndex_t


class Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def nvml() -> dict[str, object]:
    """Driver, the CUDA that it supports, GPUs, and which of them reach each other."""
    library = ctypes.CDLL("libnvidia-ml.so.1")
    status = library.nvmlInit_v2()
    if status != 0:
        library.nvmlErrorString.restype = ctypes.c_char_p
        return {"error": f"nvmlInit_v2: {status}, {library.nvmlErrorString(status).decode()}"}
    count = ctypes.c_uint()
    answer: dict[str, object] = {"driver": _text(library.nvmlSystemGetDriverVersion)}
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    handles = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
            handles.append((index, handle))
    answer["gpus"] = [{"index": index, **_gpu(library, handle)} for index, handle in handles]
    answer["peers"] = [
        {"from": one, "to": other, "status": _number(library.nvmlDeviceGetP2PStatus, a, b, P2P_READ)}
        for one, a in handles
        for other, b in handles
        if one != other
    ]
    library.nvmlShutdown()
    return answer


def _gpu(library: ctypes.CDLL, handle: ctypes.c_void_p) -> dict[str, object]:
    memory, major, minor = Memory(), ctypes.c_int(), ctypes.c_int()
    has_memory = library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
    called = library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    errors = ctypes.c_ulonglong()
    told = library.nvmlDeviceGetTotalEccErrors(handle, ECC_UNCORRECTED, ECC_VOLATILE, ctypes.byref(errors))
    reasons = ctypes.c_ulonglong()
    slowed = library.nvmlDeviceGetCurrentClocksThrottleReasons(handle, ctypes.byref(reasons))
    return {
        "name": _text(library.nvmlDeviceGetName, handle),
        "uuid": _text(library.nvmlDeviceGetUUID, handle),
        "memory": memory.total if has_memory else None,
        "used": memory.used if has_memory else None,
        "capability": f"{major.value}.{minor.value}" if called == 0 else None,
        "ecc_uncorrected": errors.value if told == 0 else None,
        "slowed": reasons.value if slowed == 0 else None,
        "compute_mode": _number(library.nvmlDeviceGetComputeMode, handle),
    }


def _text(call: ctypes._NamedFuncPointer, *arguments: object) -> str | None:
    text = ctypes.create_string_buffer(96)
    return (
        text.value.decode(errors="replace") if call(*arguments, text, ctypes.c_uint(len(text))) == 0 else None
    )


def _number(call: ctypes._NamedFuncPointer, *arguments: object) -> int | None:
    number = ctypes.c_int()
    return number.value if call(*arguments, ctypes.byref(number)) == 0 else None


def cuda() -> dict[str, object]:
    """Whether CUDA starts, how many GPUs it sees, and the newest CUDA that the driver supports."""
    library = ctypes.CDLL("libcuda.so.1")
    version, count = ctypes.c_int(), ctypes.c_int()
    answer: dict[str, object] = {"init": library.cuInit(0)}
    if library.cuDriverGetVersion(ctypes.byref(version)) == 0:
        answer["cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if answer["init"] == 0 and library.cuDeviceGetCount(ctypes.byref(count)) == 0:
        answer["count"] = count.value
    return answer


if __name__ == "__main__":
    try:
        told = {"nvml": nvml, "cuda": cuda}[sys.argv[1]]()
    except (OSError, AttributeError) as error:
        told = {"error": str(error)}
    print(json.dumps(told))
