"""GPUs, their driver, and which CUDA it is new enough for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from envbuild.doctor.report import Finding, State
from envbuild.engine.gpus import Driver, find_driver

FLOORS = {"12": (525, 60, 13), "13": (580, 65, 6)}
"""The oldest driver for each major version of CUDA (NVIDIA's table of minor version compatibility, Linux x86-64)."""

_WITHOUT = {
    "libnvidia-ml.so.1": "no libnvidia-ml.so.1: nobody can ask the GPUs how they are",
    "libnvidia-ptxjitcompiler.so.1": "no libnvidia-ptxjitcompiler.so.1: PTX is not compiled for newer GPUs",
    "nvidia-smi": "no nvidia-smi",
}
"""What a driver's installation may lack though CUDA starts."""

_QUERY = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_SECONDS = 30.0


def gpus(root: Path = Path("/")) -> Finding:
    """The GPUs that a container could get, with their names where nvidia-smi tells them."""
    found = find_driver(root)
    cards = _cards(found)
    facts = {"count": len(found.gpus), "gpus": cards, "devices": list(found.gpus)}
    if not found.gpus:
        return Finding(
            id="gpus",
            state=State.MISSING,
            detail="no NVIDIA GPU: images are built here and stay candidates",
            fix="prove them on a machine with GPUs: envbuild smoke REF; if this is one, install its driver and run "
            "nvidia-smi once, which makes the device nodes",
            facts=facts,
        )
    if "/dev/nvidia-uvm" not in found.common:
        return Finding(
            id="gpus",
            state=State.MISSING,
            detail=f"{len(found.gpus)} GPUs, but /dev/nvidia-uvm is not there: CUDA does not start",
            fix="load the module: sudo nvidia-modprobe -u -c=0",
            facts=facts,
        )
    names = (
        ", ".join(f"{card['name']} {card['memory_mib']} MiB" for card in cards)
        or "nvidia-smi does not answer"
    )
    return Finding(id="gpus", state=State.GOOD, detail=f"{len(found.gpus)}: {names}", facts=facts)


def driver(root: Path = Path("/")) -> Finding:
    """The driver's version against the floors of CUDA 12 and 13."""
    found = find_driver(root)
    version = found.version
    if version is None or "libcuda.so.1" not in found.libraries:
        what = "no NVIDIA driver is loaded" if version is None else f"driver {version}, but no libcuda.so.1"
        return Finding(
            id="driver",
            state=State.MISSING,
            detail=what,
            fix=f"install one: {_dotted(FLOORS['12'])} or newer for CUDA 12, {_dotted(FLOORS['13'])} for CUDA 13",
            facts={"version": version},
        )
    runs = {major: _numbers(version) >= floor for major, floor in FLOORS.items()}
    facts = {"version": version, **{f"cuda{major}": can for major, can in runs.items()}}
    good = [f"CUDA {major}" for major, can in runs.items() if can]
    old = [f"CUDA {major} needs {_dotted(FLOORS[major])}" for major, can in runs.items() if not can]
    if not old:
        return Finding(
            id="driver", state=State.GOOD, detail=f"{version}: runs {' and '.join(good)}", facts=facts
        )
    return Finding(
        id="driver",
        state=State.WARNING if good else State.MISSING,
        detail=f"{version}: " + "; ".join([*(f"runs {name}" for name in good), *old]),
        fix="install a newer driver: below the floor torch sees no GPU and only warns",
        facts=facts,
    )


def driver_files(root: Path = Path("/")) -> Finding:
    """What a container would get of the driver, and what of it the driver's own folder lacks."""
    found = find_driver(root)
    facts = {"libraries": sorted(found.libraries), "programs": sorted(found.programs)}
    if "libcuda.so.1" not in found.libraries:
        state = State.MISSING if found.gpus else State.GOOD
        detail = "no libcuda.so.1 in the loader's cache or the driver's usual folders"
        fix = "install the driver's libraries (Debian: libcuda1), or run ldconfig where they are installed"
        if state is State.GOOD:
            return Finding(id="driver-files", state=state, detail="not needed: no GPU here", facts=facts)
        return Finding(id="driver-files", state=state, detail=detail, fix=fix, facts=facts)
    lacking = [what for name, what in _WITHOUT.items() if name not in {*found.libraries, *found.programs}]
    if found.unlinked is not None:
        return Finding(
            id="driver-files",
            state=State.WARNING,
            detail=f"{found.unlinked} has libcuda.so.1 but no libcuda.so, with which Triton links: oci and sandbox "
            "make it in their containers, Docker without NVIDIA's toolkit and programs outside of a container lack it",
            fix=f"sudo ln -s libcuda.so.1 {found.unlinked}/libcuda.so; or name a folder that has both in "
            "TRITON_LIBCUDA_PATH",
            facts=facts,
        )
    if lacking:
        return Finding(
            id="driver-files",
            state=State.WARNING,
            detail="; ".join(lacking),
            fix="install the whole driver, its compute and utility parts",
            facts=facts,
        )
    libraries = len(set(found.libraries.values()))
    detail = f"{libraries} libraries with libcuda.so, and {', '.join(sorted(found.programs))}"
    return Finding(id="driver-files", state=State.GOOD, detail=detail, facts=facts)


def _cards(found: Driver) -> list[dict[str, object]]:
    if found.smi is None or not found.gpus:
        return []
    try:
        done = subprocess.run(
            [found.smi, *_QUERY], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.rpartition(", ") for line in done.stdout.splitlines() if done.returncode == 0]
    return [{"name": name, "memory_mib": int(size)} for name, _, size in rows if size.strip().isdigit()]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _dotted(numbers: tuple[int, ...]) -> str:
    major, *rest = numbers
    return ".".join([str(major), *(f"{part:02}" for part in rest)])
