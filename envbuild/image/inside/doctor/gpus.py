"""The driver, the GPUs, and whether the image has code for them."""

from __future__ import annotations

import re

from .model import Finding, Host, State, entries, numbers_of, size, text_of, whole

FLOORS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
"""Oldest driver of each major version of CUDA on Linux x86-64 (NVIDIA, "CUDA Compatibility", minor version table)."""

BLACKWELL_FLOOR = "570.00"
"""Oldest driver line that knows GPUs of compute capability 10.0 and above."""

GIVE = "--gpus all"

INIT = {
    100: "the driver finds no GPU in this container",
    101: "the GPU is not usable by this process",
    802: "the GPUs are not ready: on machines with NVSwitch start nvidia-fabricmanager on the host, in the driver's "
    "version",
    803: "the driver's library and its kernel module have different versions: the host needs a reboot, or another "
    "libcuda is in LD_LIBRARY_PATH",
    804: "a compatibility libcuda that these GPUs do not support is loaded: take it out of LD_LIBRARY_PATH",
    999: "the kernel module answers with an unknown error: /dev/nvidia-uvm is missing or the driver is stuck",
}
"""cuInit's answers (CUresult in cuda.h)."""

SLOWED = {
    0x4: "power limit",
    0x8: "hardware slowdown (too hot, or the power brake)",
    0x20: "too hot (software)",
    0x40: "too hot (hardware)",
    0x80: "power brake from outside",
}
"""Bits of nvmlDeviceGetCurrentClocksThrottleReasons that cost speed (nvml.h)."""


def driver(host: Host) -> Finding:
    """The driver's version against the floor of the image's CUDA."""
    version = text_of(host.nvml, "driver") or _kernel_driver(host)
    wanted = text_of(host.image, "cuda")
    floor = FLOORS.get(wanted.partition(".")[0])
    facts = {"version": version or None, "floor": floor, "cuda": wanted or None}
    if not version:
        return Finding(
            id="driver",
            state=State.PROBLEM,
            detail="no NVIDIA driver on this host",
            fix=f"on the host: install driver {floor or 'for its GPUs'} or newer and run nvidia-smi there",
            facts=facts,
        )
    if floor is None:
        return Finding(
            id="driver",
            state=State.WARNING,
            detail=f"{version}; the image does not say which CUDA it has",
            facts=facts,
        )
    if numbers_of(version) < numbers_of(floor):
        return Finding(
            id="driver",
            state=State.PROBLEM,
            detail=f"driver {version} is too old for CUDA {wanted}, which needs {floor}",
            fix=f"on the host: install driver {floor} or newer, or take an image with an older CUDA",
            facts=facts,
        )
    new = [gpu for gpu in entries(host.nvml, "gpus") if numbers_of(text_of(gpu, "capability")) >= (10, 0)]
    if new and numbers_of(version) < numbers_of(BLACKWELL_FLOOR):
        return Finding(
            id="driver",
            state=State.PROBLEM,
            detail=f"driver {version} is too old for {text_of(new[0], 'name')}, which needs {BLACKWELL_FLOOR}",
            fix="on the host: install a newer driver",
            facts=facts,
        )
    return Finding(
        id="driver", state=State.GOOD, detail=f"{version} (CUDA {wanted} needs {floor})", facts=facts
    )


def _kernel_driver(host: Host) -> str:
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", host.text("proc/driver/nvidia/version") or "")
    return found[1] if found else ""


def gpus(host: Host) -> Finding:
    """Whether the container was given GPUs, and their libraries with them."""
    nodes, cards = host.gpus(), entries(host.nvml, "gpus")
    facts = {"devices": nodes, "gpus": cards, "nvml_error": host.nvml.get("error")}
    if not nodes and not cards:
        there = bool(_kernel_driver(host))
        return Finding(
            id="gpus",
            state=State.PROBLEM,
            detail="the host has a driver, but this container was given no GPU"
            if there
            else "no GPU in this container",
            fix="start the container with GPUs (docker run --gpus all; it needs nvidia-container-toolkit on the host)",
            flags=(GIVE,),
            facts=facts,
        )
    if not cards:
        return Finding(
            id="gpus",
            state=State.PROBLEM,
            detail=f"{len(nodes)} device nodes, but the driver's library does not answer: "
            f"{host.nvml.get('error') or 'no GPU told'}",
            fix="let the toolkit bring the driver's libraries: --gpus all, and NVIDIA_DRIVER_CAPABILITIES with "
            "compute,utility",
            flags=(GIVE, "-e NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
            facts=facts,
        )
    if len(cards) < len(nodes):
        return Finding(
            id="gpus",
            state=State.WARNING,
            detail=f"the kernel shows {len(nodes)} GPUs, the driver answers for {len(cards)}",
            fix="one may have fallen off the bus: see nvidia-smi, and dmesg for Xid messages, on the host",
            facts=facts,
        )
    listed = ", ".join(f"{text_of(card, 'name')} {size(whole(card, 'memory') or 0)}" for card in cards)
    return Finding(id="gpus", state=State.GOOD, detail=f"{len(cards)}: {listed}", facts=facts)


def cuda(host: Host) -> Finding | None:
    """Whether CUDA starts; not asked where there is no GPU."""
    if not host.gpus() and not entries(host.nvml, "gpus"):
        return None
    init, count = whole(host.cuda, "init"), whole(host.cuda, "count")
    facts = dict(host.cuda)
    if init is None:
        return Finding(
            id="cuda",
            state=State.PROBLEM,
            detail=f"libcuda does not answer: {host.cuda.get('error', 'no answer')}",
            fix="let the toolkit bring the driver's libraries: --gpus all, and NVIDIA_DRIVER_CAPABILITIES with compute",
            flags=(GIVE,),
            facts=facts,
        )
    if init != 0:
        return Finding(
            id="cuda",
            state=State.PROBLEM,
            detail=f"CUDA does not start: cuInit says {init}",
            fix=INIT.get(init, "see CUresult in CUDA's driver API for this number, and dmesg on the host"),
            facts=facts,
        )
    return Finding(
        id="cuda",
        state=State.GOOD,
        detail=f"starts, {count} GPUs; the driver supports CUDA {host.cuda.get('cuda')}",
        facts=facts,
    )


def architecture(host: Host) -> Finding | None:
    """Whether torch's and the operator's code runs on the GPUs: as machine code of the same major, or through PTX."""
    cards = entries(host.nvml, "gpus")
    if not cards:
        return None
    have = {text_of(card, "capability") for card in cards} - {""}
    lists = {"torch": _torch_targets(host.torch.get("architectures"))}
    operator = host.image.get("architectures")
    if isinstance(operator, list) and operator:
        lists["DeepSpeed's operator"] = _targets([str(item) for item in operator])
    facts = {"gpus": sorted(have), "code": {name: sorted(both[0]) for name, both in lists.items()}}
    missing, translated = [], []
    for what, (code, ptx) in lists.items():
        for capability in sorted(have, key=numbers_of):
            reach = reach_of(capability, code, ptx)
            if (code or ptx) and reach is None:
                missing.append(f"{what} has no code for {capability}")
            elif reach == "PTX":
                translated.append(f"{what} reaches {capability} through PTX")
    if missing:
        return Finding(
            id="architecture",
            state=State.PROBLEM,
            detail="; ".join(missing),
            fix="take an image whose recipe lists this architecture",
            facts=facts,
        )
    if translated:
        return Finding(
            id="architecture",
            state=State.WARNING,
            detail="; ".join(translated),
            fix="works; the first start translates the code, which takes minutes. Keep ~/.nv to do it once",
            facts=facts,
        )
    known = [what for what, (code, ptx) in lists.items() if code or ptx]
    return Finding(
        id="architecture",
        state=State.GOOD if known else State.UNKNOWN,
        detail=f"machine code for {', '.join(sorted(have))} in {' and '.join(known)}"
        if known
        else "no list of architectures",
        facts=facts,
    )


def reach_of(capability: str, code: set[str], ptx: set[str]) -> str | None:
    """``code`` (cubins run on the same major, same or higher minor), ``PTX`` (any not older), or ``None``.

    The rule is CUDA's ("Application Compatibility", CUDA C++ Programming Guide).
    """
    gpu = numbers_of(capability)
    if any(numbers_of(item)[0] == gpu[0] and numbers_of(item) <= gpu for item in code):
        return "code"
    return "PTX" if any(numbers_of(item) <= gpu for item in ptx) else None


def _targets(listed: list[str]) -> tuple[set[str], set[str]]:
    plain = {item.removesuffix("+PTX") for item in listed if re.fullmatch(r"\d+\.\d+(\+PTX)?", item)}
    return plain, {item.removesuffix("+PTX") for item in listed if item.endswith("+PTX")}


def _torch_targets(flags: object) -> tuple[set[str], set[str]]:
    """Of torch's ``sm_90`` and ``compute_90``; ``sm_90a`` is for 9.0 alone and comes beside ``sm_90``."""
    names = [str(item) for item in flags] if isinstance(flags, list) else []
    found = [match for name in names if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)", name))]
    code = {f"{match[2]}.{match[3]}" for match in found if match[1] == "sm"}
    return code, {f"{match[2]}.{match[3]}" for match in found if match[1] == "compute"}


def health(host: Host) -> Finding | None:
    """Memory errors, slowed clocks, memory that others use, exclusive modes."""
    cards = entries(host.nvml, "gpus")
    if not cards:
        return None
    bad, worth = [], []
    for card in cards:
        name = f"GPU {card.get('index')}"
        if whole(card, "ecc_uncorrected"):
            bad.append(f"{name} had {card['ecc_uncorrected']} uncorrected memory errors since it was started")
        slowed = [text for bit, text in SLOWED.items() if (whole(card, "slowed") or 0) & bit]
        if slowed:
            worth.append(f"{name} runs slower: {', '.join(slowed)}")
        total, used = whole(card, "memory"), whole(card, "used")
        if total and used and used > total // 10:
            worth.append(f"{name} has {size(used)} of {size(total)} in use already")
        if whole(card, "compute_mode") in (1, 3):
            worth.append(f"{name} is in exclusive mode: one process at a time")
        if whole(card, "compute_mode") == 2:
            bad.append(f"{name} is in prohibited mode: nothing computes on it")
    if bad or worth:
        return Finding(
            id="gpu-health",
            state=State.PROBLEM if bad else State.WARNING,
            detail="; ".join(bad + worth),
            fix="see nvidia-smi -q on the host: reset or replace a GPU with memory errors, stop what else uses it; "
            "one slow GPU slows all",
        )
    return Finding(id="gpu-health", state=State.GOOD, detail="no memory errors, full clocks, memory free")


def peers(host: Host) -> Finding | None:
    """Whether each two GPUs read each other's memory directly."""
    pairs = entries(host.nvml, "peers")
    if not pairs:
        return None
    apart = [
        f"{pair.get('from')}-{pair.get('to')}" for pair in pairs if whole(pair, "status") not in (0, None)
    ]
    if apart:
        return Finding(
            id="peer-to-peer",
            state=State.WARNING,
            detail=f"no direct copies between GPUs {', '.join(apart)}: NCCL goes through shared memory",
            fix="works, slower. In virtual machines and with ACS on, direct copies are off: see nvidia-smi topo -p2p r",
            facts={"apart": apart},
        )
    return Finding(id="peer-to-peer", state=State.GOOD, detail="every GPU reads every other one directly")
