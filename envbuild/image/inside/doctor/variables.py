"""Variables that hurt, or that explain what will be seen."""

from __future__ import annotations

import re

from .model import Finding, Host, State, entries

TOLD = (
    "NCCL_",
    "TORCH_NCCL_",
    "TORCH_SYMM_MEM_",
    "NVSHMEM_",
    "GLOO_",
    "CUDA_",
    "NVIDIA_",
    "LD_",
    "PYTORCH_",
    "OMP_",
    "DS_",
)

SLOW = {
    "NCCL_P2P_DISABLE": "no direct copies between GPUs",
    "NCCL_SHM_DISABLE": "ranks of one machine talk through the network",
    "NCCL_IB_DISABLE": "no InfiniBand between machines",
    "NCCL_NET_GDR_DISABLE": "network traffic goes through host memory",
    "CUDA_LAUNCH_BLOCKING": "every kernel is waited for",
    "TORCH_NCCL_BLOCKING_WAIT": "every collective is waited for",
    "TORCH_DISTRIBUTED_DEBUG": "collectives are checked (DETAIL) or logged",
    "NCCL_ALGO": "NCCL's choice of algorithm is overruled",
    "NCCL_PROTO": "NCCL's choice of protocol is overruled",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "memory is not reused",
}
"""Variables with which things work more slowly (NCCL's and PyTorch's documentation of environment variables)."""

_NONE = {"0", "", "OFF", "INFO"}
_NAME = re.compile(r"[=^]*(?P<name>[A-Za-z0-9_.-]+)")


def variables(host: Host) -> Finding:
    """Which variables are set that change NCCL, CUDA or the loader, and what they cost."""
    told = {name: value for name, value in sorted(host.environ.items()) if name.startswith(TOLD)}
    wrong = [text for text in (_visible(host), _interface(host)) if text]
    slow = [text for text in (_libraries(host), _preload(host)) if text]
    slow += [
        f"{name}={host.environ[name]}: {what}"
        for name, what in SLOW.items()
        if host.environ.get(name, "").upper() not in _NONE
    ]
    if not host.names("dev/infiniband", r"uverbs\d+"):
        slow = [text for text in slow if not text.startswith("NCCL_IB_DISABLE")]
    if host.environ.get("NCCL_DEBUG", "").upper() == "TRACE":
        slow.append("NCCL_DEBUG=TRACE writes a line for each operation")
    if wrong or slow:
        return Finding(
            id="variables",
            state=State.PROBLEM if wrong else State.WARNING,
            detail="; ".join(wrong + slow),
            fix="leave out what you did not mean (docker run -e, --env-file); an operator of shared hardware may mean "
            "it",
            facts={"variables": told},
        )
    shown = (
        ", ".join(name for name in told if name.startswith(("NCCL_", "TORCH_", "NVSHMEM_")))
        or "none that matters"
    )
    return Finding(id="variables", state=State.GOOD, detail=shown, facts={"variables": told})


def _visible(host: Host) -> str | None:
    asked = host.environ.get("NVIDIA_VISIBLE_DEVICES")
    if asked in {"", "void", "none"} and not host.gpus():
        return f"NVIDIA_VISIBLE_DEVICES={asked}: the container gets no GPU"
    cuda = host.environ.get("CUDA_VISIBLE_DEVICES")
    if cuda is None:
        return None
    if cuda.strip() in {"", "-1", "NoDevFiles"}:
        return f"CUDA_VISIBLE_DEVICES={cuda!r}: programs see no GPU"
    numbers = [int(part) for part in cuda.split(",") if part.strip().isdigit()]
    count = len(entries(host.nvml, "gpus"))
    beyond = [number for number in numbers if count and number >= count]
    return f"CUDA_VISIBLE_DEVICES={cuda}: there is no GPU {beyond[0]}, {count} are here" if beyond else None


def _interface(host: Host) -> str | None:
    """``NCCL_SOCKET_IFNAME`` is a list of prefixes; ``=`` before it asks for whole names, ``^`` leaves them out."""
    have = host.names("sys/class/net", ".+")
    for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = host.environ.get(variable, "")
        if not value or value.startswith("^") or not have:
            continue
        exact = value.startswith("=") or variable.startswith("GLOO")
        names = [match["name"] for part in value.split(",") if (match := _NAME.fullmatch(part.strip()))]
        if not any(
            there == name or (not exact and there.startswith(name)) for name in names for there in have
        ):
            return f"{variable}={value}: no such interface; here are {', '.join(have)}"
    return None


def _libraries(host: Host) -> str | None:
    """torch's own libraries come first by DT_RPATH, but other programs take these."""
    folders = [folder for folder in host.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    for folder in folders:
        found = host.names(folder.lstrip("/"), r"lib(cudart|cublas|cudnn|nccl)\.so.*")
        if found and not folder.startswith("/opt/venv/"):
            return f"LD_LIBRARY_PATH has {folder} with another {found[0]} than the image's"
    return None


def _preload(host: Host) -> str | None:
    missing = [file for file in re.split(r"[: ]", host.environ.get("LD_PRELOAD", "")) if file.startswith("/")]
    missing = [file for file in missing if not (host.root / file.lstrip("/")).exists()]
    return f"LD_PRELOAD names {missing[0]}, which is not there" if missing else None
