"""How the GPUs are joined, by NVML and by NCCL's log, and the bandwidth that may be expected of that."""

from __future__ import annotations

import ctypes
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

Link = Literal["nvlink", "pcie", "sockets"]

FLOORS = Path(__file__).with_name("floors.toml")
MAX_LINKS = 18
"""NVML_NVLINK_MAX_LINKS."""

_P2P_NVLINK = 2
"""NVML_P2P_CAPS_INDEX_NVLINK."""

_REMOTE_GPU = 0
"""NVML_NVLINK_DEVICE_TYPE_GPU; 2 is a switch, which reaches every GPU on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU's way out: active NVLinks to the others (and their NVML version), and its PCI Express slot.

    ``None`` or 0 where NVML does not say.
    """

    uuid: str
    nvlinks: int
    nvlink_version: int
    pcie_generation: int
    pcie_lanes: int

    def to_dict(self) -> dict[str, Any]:
        """For the check's numbers."""
        return {
            "uuid": self.uuid,
            "nvlinks": self.nvlinks,
            "nvlink_version": self.nvlink_version,
            "pcie_generation": self.pcie_generation,
            "pcie_lanes": self.pcie_lanes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The GPUs, and whether NVML says of every pair that NVLink joins it (``None``: NVML does not answer)."""

    gpus: tuple[Gpu, ...]
    nvlink: bool | None

    def to_dict(self) -> dict[str, Any]:
        """For the check's numbers; :meth:`parse` is the inverse."""
        return {"gpus": [gpu.to_dict() for gpu in self.gpus], "nvlink": self.nvlink}

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Topology:
        """What :meth:`to_dict` wrote in a rank."""
        return cls(gpus=tuple(Gpu(**gpu) for gpu in value["gpus"]), nvlink=value["nvlink"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The least bus bandwidth in GB/s, and how it was found."""

    busbw: float
    source: str


def topology(uuids: Sequence[str]) -> Topology:
    """Ask NVML how GPUs are joined.

    Args:
        uuids: the GPUs, as ``GPU-…``.
    """
    unknown = Topology(gpus=(), nvlink=None)
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return unknown
    if nvml.nvmlInit_v2() != 0:
        return unknown
    try:
        handles = [_handle(nvml, uuid) for uuid in uuids]
        if None in handles:
            return unknown
        names = {_bus(nvml, handle) for handle in handles}
        gpus = tuple(_gpu(nvml, uuid, handle, names) for uuid, handle in zip(uuids, handles, strict=True))
        pairs = [_status(nvml, one, other) for one, other in combinations(handles, 2)]
        return Topology(gpus=gpus, nvlink=None if None in pairs else bool(pairs) and all(pairs))
    finally:
        nvml.nvmlShutdown()


def _handle(nvml: Any, uuid: str) -> Any:
    handle = ctypes.c_void_p()
    done = nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) == 0
    return handle if done else None


def _number(nvml: Any, function: str, handle: Any, *arguments: int) -> int:
    """One unsigned answer of NVML, or 0 where it has none."""
    found = ctypes.c_uint(0)
    call = getattr(nvml, function, None)
    if call is None:
        return 0
    status = call(handle, *(ctypes.c_uint(number) for number in arguments), ctypes.byref(found))
    return found.value if status == 0 else 0


def _status(nvml: Any, one: Any, other: Any) -> bool | None:
    found = ctypes.c_int(-1)
    done = nvml.nvmlDeviceGetP2PStatus(one, other, ctypes.c_int(_P2P_NVLINK), ctypes.byref(found))
    return found.value == 0 if done == 0 else None


class _PciInfo(ctypes.Structure):
    """nvmlPciInfo_t, version 3."""

    _fields_ = (
        ("busIdLegacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pciDeviceId", ctypes.c_uint),
        ("pciSubSystemId", ctypes.c_uint),
        ("busId", ctypes.c_char * 32),
    )


def _bus(nvml: Any, handle: Any) -> str:
    info = _PciInfo()
    nvml.nvmlDeviceGetPciInfo_v3(handle, ctypes.byref(info))
    return f"{info.domain:x}:{info.bus:x}:{info.device:x}"


def _gpu(nvml: Any, uuid: str, handle: Any, names: set[str]) -> Gpu:
    active = [
        link for link in range(MAX_LINKS) if _number(nvml, "nvmlDeviceGetNvLinkState", handle, link) == 1
    ]
    useful = [link for link in active if _reaches(nvml, handle, link, names)]
    return Gpu(
        uuid=uuid,
        nvlinks=len(useful),
        nvlink_version=_number(nvml, "nvmlDeviceGetNvLinkVersion", handle, useful[0]) if useful else 0,
        pcie_generation=_number(nvml, "nvmlDeviceGetMaxPcieLinkGeneration", handle),
        pcie_lanes=_number(nvml, "nvmlDeviceGetMaxPcieLinkWidth", handle),
    )


def _reaches(nvml: Any, handle: Any, link: int, names: set[str]) -> bool:
    """Whether a link ends at a switch or at one of ours; where NVML does not say, it is taken to."""
    kind = ctypes.c_int(-1)
    call = getattr(nvml, "nvmlDeviceGetNvLinkRemoteDeviceType", None)
    if (
        call is None
        or call(handle, ctypes.c_uint(link), ctypes.byref(kind)) != 0
        or kind.value != _REMOTE_GPU
    ):
        return True
    info = _PciInfo()
    if nvml.nvmlDeviceGetNvLinkRemotePciInfo_v2(handle, ctypes.c_uint(link), ctypes.byref(info)) != 0:
        return True
    return f"{info.domain:x}:{info.bus:x}:{info.device:x}" in names


def transports(logs: Iterable[str]) -> list[str]:
    """How NCCL's channels go, in its log's words: ``P2P/CUMEM``, ``SHM/direct/direct``, ``NET/Socket/0``, ``NVLS``."""
    found: set[str] = set()
    for text in logs:
        found |= set(re.findall(r"\bvia ((?:P2P|SHM|NET)/[\w/.-]+)", text))
        if re.search(r"Connected NVLS tree", text):
            found.add("NVLS")
    return sorted(found)


def link_class(seen: Topology, chosen: Sequence[str]) -> Link:
    """NVLink where NVML says so of every pair, whatever NCCL made of it; else what NCCL's transport goes over.

    So a NCCL that leaves NVLink aside is held to NVLink's floor, and does not lower it by being slow.
    """
    if seen.nvlink or "NVLS" in chosen:
        return "nvlink"
    return "sockets" if any(name.startswith("NET/") for name in chosen) else "pcie"


def floor(link: Link, seen: Topology, *, path: Path = FLOORS) -> Floor:
    """The floor of a class on these GPUs.

    Args:
        link: from :func:`link_class`.
        seen: the GPUs; the slowest one counts.
        path: the data file.
    """
    table = tomllib.loads(path.read_text())[link]
    source = " ".join(str(table["source"]).split())
    rates = {int(key): float(value) for key, value in table.get("gbps", {}).items()}
    counts = [
        (gpu.nvlink_version, gpu.nvlinks) if link == "nvlink" else (gpu.pcie_generation, gpu.pcie_lanes)
        for gpu in seen.gpus
    ]
    if not rates or not counts or any(kind not in rates or not many for kind, many in counts):
        return Floor(busbw=float(table["unknown"]), source=f"{path.name}, {link}, count unknown: {source}")
    kind, many = min(counts, key=lambda count: rates[count[0]] * count[1])
    what = "links" if link == "nvlink" else "lanes"
    return Floor(
        busbw=round(float(table["fraction"]) * rates[kind] * many, 3),
        source=f"{path.name}, {link}: {table['fraction']} of {many} {what} of {rates[kind]:g} GB/s. {source}",
    )
