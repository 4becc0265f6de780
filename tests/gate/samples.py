"""Reports as the suite writes them on two H200s, with the numbers of each check in their real form."""

from __future__ import annotations

from typing import Any

FULL = 326.7
"""GB/s of an all_reduce of 1 GiB between two H200s (docs/verdicts/2026-11-20-2xh200)."""


def curve(peak: float, factor: float) -> list[dict[str, float]]:
    """8 B to 1 GiB, doubling: a latency of 25 µs and a bandwidth that approaches ``peak``."""
    points = []
    for power in range(3, 31):
        size = 2**power
        seconds = 25e-6 + size * factor / (peak * 1e9)
        algbw = size / seconds / 1e9
        points.append({"bytes": size, "seconds": seconds, "algbw": algbw, "busbw": algbw * factor})
    return points


def nccl(peak: float = FULL) -> dict[str, Any]:
    curves = {
        "all_reduce": curve(peak, 1.0),
        "all_gather": curve(peak * 0.97, 0.5),
        "reduce_scatter": curve(peak * 0.95, 0.5),
        "broadcast": curve(peak * 0.9, 1.0),
    }
    return {
        "ranks": 2,
        "transport": "P2P/CUMEM",
        "link": "nvlink",
        "floor": {"busbw": 240.0, "source": "18 links of NVLink 4, two thirds of what was seen on two H200s"},
        "busbw": {kind: max(point["busbw"] for point in points) for kind, points in curves.items()},
        "curve": curves,
        "cases": 300,
        "elements": 1473121799,
    }


def pins() -> list[dict[str, Any]]:
    names = ("name", "package", "declared", "resolved", "installed", "loaded")
    rows = (
        ("torch", "torch", "2.7.1", "2.7.1", "2.7.1", "2.7.1+cu126"),
        ("triton", "triton", None, "3.3.1", "3.3.1", "3.3.1"),
        ("deepspeed", "deepspeed", "0.19.8", "0.19.8", "0.19.8", "0.19.8"),
        ("libcudart", "nvidia-cuda-runtime-cu12", "12.6", "12.6.77", "12.6.77", "12.6"),
        ("libcublas", "nvidia-cublas-cu12", None, "12.6.4.1", "12.6.4.1", "12.6.4"),
        ("libcudnn", "nvidia-cudnn-cu12", "9.5.1.17", "9.5.1.17", "9.5.1.17", "9.5.1"),
        ("libnccl", "nvidia-nccl-cu12", "2.26.2", "2.26.2", "2.26.2", "2.26.2"),
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def steps(slow: float = 1.0) -> dict[str, Any]:
    return {
        "losses": [5.0574, 5.0316, 4.9461, 4.9019, 4.8779, 4.7997],
        "step_seconds": [0.41 * slow, 0.031 * slow, 0.029 * slow, 0.03 * slow, 0.029 * slow, 0.03 * slow],
    }


NUMBERS: dict[str, dict[str, Any]] = {
    "versions": {"packages": 203, "hashed_packages": 18, "hashed_files": 13314, "hashed_bytes": 3994318456},
    "imports": {"seconds": {"torch": 2.688, "torchvision": 3.308, "triton": 0.0, "deepspeed": 0.393}},
    "loaded": {
        "torch": "2.7.1+cu126",
        "pins": pins(),
        "libraries": {
            "libcudart": {"version": "12.6", "pinned": "12.6.77", "file": "/opt/venv/lib/libcudart.so.12"},
            "libcudnn": {"version": "9.5.1", "pinned": "9.5.1.17", "file": "/opt/venv/lib/libcudnn.so.9"},
            "libnccl": {"version": "2.26.2", "pinned": "2.26.2", "file": "/opt/venv/lib/libnccl.so.2"},
        },
    },
    "operator-file": {"size": 1076352, "machine_code": ["7.0", "8.0", "8.6", "9.0"], "ptx": ["9.0"]},
    "gloo-all-reduce": {"ranks": 2, "cases": 9, "elements": 789498},
    "cuda-available": {"driver": "580.159.04", "gpus": [{"name": "NVIDIA H200"}, {"name": "NVIDIA H200"}]},
    "nccl": nccl(),
    "peer-copy": {"pairs": 2, "bytes": 268435456},
    "ddp": {"ranks": 2, "distance": 0.0},
    "zero3-fused-adam": {"ranks": 2, **steps()},
    "zero-stages": {"stages": {"1": steps(0.8), "2": steps(0.9)}, **steps(0.9)},
    "cpp-extension": {"module": "cpu_adam", "compile_seconds": 38.7, "error": 0.2864, "waited_seconds": 21.3},
    "zero-offload": {"ways": {"cpu_adam": steps(4), "torch_adam": steps(6)}, **steps(4)},
    "zero-checkpoint": steps(1.1),
}


def full(report: dict[str, Any]) -> dict[str, Any]:
    """The report with each check's numbers and times, and a warning."""
    checks = []
    for index, check in enumerate(report["checks"]):
        seconds = round(2.4 + 7.3 * (index % 4), 3)
        checks.append({**check, "numbers": NUMBERS.get(check["id"], {"cases": 12}), "seconds": seconds})
    checks[0]["warnings"] = ["GPU 1 is throttled: SW power cap (0x4): the power limit holds its clock down"]
    environment = {
        "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64",
        "NCCL_NVLS_ENABLE": "0",
        "NVSHMEM_DISABLE_NVLS": "1",
        "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    }
    return {**report, "checks": checks, "environment": environment}


def failing(report: dict[str, Any]) -> dict[str, Any]:
    """NVLink is not used, so the bandwidth is below the floor; and one check hung."""
    value = full(report)
    for check in value["checks"]:
        if check["id"] == "nccl":
            check["numbers"] = {**nccl(41.0), "transport": "SHM/direct/direct", "link": "pcie"}
            check.update(
                status="failed", cause="answer", expected="at least 240 GB/s bus bandwidth over nvlink",
                seen="all_reduce 41.0 GB/s; all_gather 39.8 GB/s\nNCCL went via SHM/direct/direct",
                hint="NCCL_P2P_DISABLE is set: unset it, or run on GPUs that reach each other",
            )  # fmt: skip
        if check["id"] == "zero-offload":
            check.update(
                status="failed", cause="timeout", expected="an answer within 420 s", numbers={},
                seen="no answer within 420 s; killed", hint="the check's output below has the stacks",
                output="File \"train.py\", line 12 in step\n" * 30,
            )  # fmt: skip
    failed = [check["id"] for check in value["checks"] if check["status"] == "failed"]
    why = f"{len(failed)} of {len(value['checks'])} checks failed: {', '.join(failed)}"
    return {**value, "result": "failed", "why": why}


def candidate(report: dict[str, Any]) -> dict[str, Any]:
    """A machine without GPUs."""
    value = full(report)
    for check in value["checks"]:
        if check["id"] not in (
            "versions",
            "imports",
            "loaded",
            "operator-file",
            "gloo-all-reduce",
            "cpp-extension",
        ):
            check.update(
                status="not-run", seconds=0.0, numbers={}, seen="no GPU here (/dev/nvidia0 does not exist)"
            )
            check["warnings"] = []
    why = "nothing failed, but 2 GPUs are wanted and 0 GPUs are here"
    return {**value, "result": "candidate", "why": why, "gpus": [], "environment": {}}
