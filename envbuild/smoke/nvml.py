"""What the driver says of its GPUs: NVML, called through ctypes, since no package is needed for it (nvml.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

SUCCESS, NOT_SUPPORTED, LIBRARY_MISMATCH, GPU_IS_LOST, RESET_REQUIRED = 0, 3, 18, 15, 16
NO_PERMISSION, DRIVER_NOT_LOADED = 4, 9
UNCORRECTED, SINCE_BOOT, EVER = 1, 0, 1
"""nvmlMemoryErrorType_t, and nvmlEccCounterType_t: volatile (since the driver was loaded) and aggregate."""

REASONS = {
    0x4: "its power cap holds the clocks down",
    0x8: "hardware slowdown: too hot, or a power brake; clocks are at half or less",
    0x10: "sync boost: it waits for a slower GPU of its group",
    0x20: "too hot: software holds the clocks down (check fans, airflow and neighbours)",
    0x40: "too hot: hardware holds the clocks down to half or less (check cooling)",
    0x80: "power brake: the machine's power supply asked the GPU to slow down",
}
"""Bits of nvmlClocksEventReasons that cost speed. Idle (0x1) and clocks that somebody set (0x2, 0x100) do not count."""

MODES = {0: "default", 2: "prohibited", 3: "exclusive process"}


class NvmlError(Exception):
    """NVML cannot be asked; ``code`` is its nvmlReturn_t, or ``None`` where the library is not there."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """One GPU. ``None`` where it has no such thing.

    ``uncorrected`` counts memory errors since the driver was loaded, ``uncorrected_ever`` in its life; ``remap`` is
    ``(pending, failed)`` of row remapping; ``reasons`` the bits that hold clocks down; ``lost`` an error's text.
    """

    index: int
    name: str | None
    uuid: str | None
    capability: tuple[int, int] | None
    ecc: bool | None
    uncorrected: int | None
    uncorrected_ever: int | None
    remap: tuple[bool, bool] | None
    reasons: int | None
    mode: str | None
    mig: bool | None
    lost: str | None = None

    def to_dict(self) -> dict[str, object]:
        """For the report."""
        return {
            "index": self.index,
            "name": self.name,
            "uuid": self.uuid,
            "ecc": self.ecc,
            "uncorrected": self.uncorrected,
            "uncorrected_ever": self.uncorrected_ever,
            "remap": None if self.remap is None else {"pending": self.remap[0], "failed": self.remap[1]},
            "reasons": self.reasons,
            "slowed": slowed(self.reasons or 0),
            "mode": self.mode,
            "mig": self.mig,
            "lost": self.lost,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The driver's version, and each GPU that it knows."""

    driver: str | None
    gpus: tuple[GpuState, ...]


def slowed(reasons: int) -> list[str]:
    """What each bit that costs speed means."""
    return [text for bit, text in REASONS.items() if reasons & bit]


def read_nvml() -> Reading:
    """Ask everything once.

    Raises:
        NvmlError: the library is not there or does not start.
    """
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise NvmlError(f"libnvidia-ml.so.1 cannot be loaded: {error}") from error
    status = int(library.nvmlInit_v2())
    if status != SUCCESS:
        raise NvmlError(_told(library, status), status)
    try:
        count = ctypes.c_uint()
        status = int(library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        if status != SUCCESS:
            raise NvmlError(_told(library, status), status)
        gpus = tuple(_gpu(library, index) for index in range(count.value))
        return Reading(driver=_text(library, "nvmlSystemGetDriverVersion"), gpus=gpus)
    finally:
        library.nvmlShutdown()


def _told(library: ctypes.CDLL, status: int) -> str:
    explain = library.nvmlErrorString
    explain.restype = ctypes.c_char_p
    return f"NVML says {(explain(status) or b'?').decode()!r} ({status})"


def _gpu(library: ctypes.CDLL, index: int) -> GpuState:
    handle = ctypes.c_void_p()
    status = int(library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
    lost = None if status == SUCCESS else _told(library, status)
    seen = _Asking(library=library, handle=handle)
    if status == SUCCESS:
        # A GPU that fell off the bus may still have a handle; the first question then says that it is lost.
        told = int(library.nvmlDeviceGetUUID(handle, ctypes.create_string_buffer(96), ctypes.c_uint(96)))
        lost = _told(library, told) if told in (GPU_IS_LOST, RESET_REQUIRED) else None
    if lost is not None:
        nothing = dict.fromkeys(
            ["name", "uuid", "capability", "ecc", "uncorrected", "uncorrected_ever", "remap", "reasons"]
        )
        return GpuState(index=index, lost=lost, mode=None, mig=None, **nothing)
    ecc = seen.numbers("nvmlDeviceGetEccMode", ctypes.c_uint, 2)
    remap = seen.numbers("nvmlDeviceGetRemappedRows", ctypes.c_uint, 4)
    mode = seen.numbers("nvmlDeviceGetComputeMode", ctypes.c_int, 1)
    mig = seen.numbers("nvmlDeviceGetMigMode", ctypes.c_uint, 2)
    capability = seen.numbers("nvmlDeviceGetCudaComputeCapability", ctypes.c_int, 2)
    return GpuState(
        index=index,
        name=_text(library, "nvmlDeviceGetName", handle),
        uuid=_text(library, "nvmlDeviceGetUUID", handle),
        capability=None if capability is None else (capability[0], capability[1]),
        ecc=None if ecc is None else bool(ecc[0]),
        uncorrected=seen.errors(SINCE_BOOT),
        uncorrected_ever=seen.errors(EVER),
        remap=None if remap is None else (bool(remap[2]), bool(remap[3])),
        reasons=seen.reasons(),
        mode=None if mode is None else MODES.get(mode[0], str(mode[0])),
        mig=None if mig is None else bool(mig[0]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """Questions about one GPU; a driver or a GPU that does not know the question answers ``None``."""

    library: ctypes.CDLL
    handle: ctypes.c_void_p

    def numbers(
        self,
        function: str,
        kind: type[ctypes.c_int] | type[ctypes.c_uint] | type[ctypes.c_ulonglong],
        count: int,
        *arguments: ctypes.c_int,
    ) -> tuple[int, ...] | None:
        ask = _function(self.library, function)
        values = [kind() for _ in range(count)]
        if ask is None or ask(self.handle, *arguments, *map(ctypes.byref, values)) != SUCCESS:
            return None
        return tuple(int(value.value) for value in values)

    def errors(self, counter: int) -> int | None:
        found = self.numbers(
            *("nvmlDeviceGetTotalEccErrors", ctypes.c_ulonglong, 1),
            *(ctypes.c_int(UNCORRECTED), ctypes.c_int(counter)),
        )
        return None if found is None else found[0]

    def reasons(self) -> int | None:
        """The bits, by the function's name of today or that of drivers before 535."""
        for function in (
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        ):
            found = self.numbers(function, ctypes.c_ulonglong, 1)
            if found is not None:
                return found[0]
        return None


def _function(library: ctypes.CDLL, name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(library, name)
    except AttributeError:
        return None
    return found


def _text(library: ctypes.CDLL, function: str, *arguments: ctypes.c_void_p) -> str | None:
    ask = _function(library, function)
    text = ctypes.create_string_buffer(96)
    if ask is None or ask(*arguments, text, ctypes.c_uint(len(text))) != SUCCESS:
        return None
    return text.value.decode("utf-8", "replace")
