"""``nccl-all-reduce``: all GPUs of this machine add up exactly, and how fast."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import collective
from ..context import Context, run_ranks
from ..model import Failure

KIB, MIB = 1 << 10, 1 << 20
SIZES = (8, 4 * KIB, 1 * MIB, 32 * MIB, 256 * MIB, 1024 * MIB)
"""Bytes. The largest is where a link shows its bandwidth."""

DTYPES = ("float32", "bfloat16", "int64")
WARM_UP = 3
ITERATIONS = {8: 200, 4 * KIB: 200, 1 * MIB: 100, 32 * MIB: 40, 256 * MIB: 20, 1024 * MIB: 10}
FORMULA = "algbw = bytes / time; busbw = algbw * 2(n-1)/n; GB = 1e9 bytes; time: CUDA events, slowest rank"


def run(context: Context) -> dict[str, Any]:
    """One process a GPU; compare every element on each, then take the slowest rank's times."""
    import torch

    world = torch.cuda.device_count()
    if world == 0:
        raise Failure(
            expected=f"{context.gpus} GPU(s)", seen="torch sees none", hint="see the check cuda-available"
        )
    log = context.scratch / "nccl"
    environ = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": f"{log}.%p", **os.environ}
    results = run_ranks(context, world, environ=environ)
    collective.judge(results)
    slowest = [max(times) for times in zip(*(result["seconds"] for result in results), strict=True)]
    curve = [
        {"bytes": size, "seconds": seconds, **collective.bandwidth(size, seconds, world)}
        for size, seconds in zip(SIZES, slowest, strict=True)
    ]
    return {
        "ranks": world,
        "nccl": results[0]["nccl"],
        "cases": results[0]["cases"],
        "elements": results[0]["elements"],
        "formula": FORMULA,
        "curve": curve,
        "busbw": curve[-1]["busbw"],
        "transports": transports(
            path.read_text(errors="replace") for path in sorted(log.parent.glob("nccl.*")) if path.is_file()
        ),
    }


def transports(logs: Iterable[str]) -> list[str]:
    """How NCCL's channels go, in its log's words: ``P2P/CUMEM``, ``SHM/direct/direct``, ``NET/Socket/0``, ``NVLS``."""
    found: set[str] = set()
    for text in logs:
        found |= set(re.findall(r"\bvia ((?:P2P|SHM|NET)/[\w/.-]+)", text))
        if re.search(r"Connected NVLS tree", text):
            found.add("NVLS")
    return sorted(found)


def rank(context: Context) -> dict[str, Any]:
    """One GPU's process."""
    import torch
    import torch.distributed as dist

    torch.cuda.set_device(context.rank)
    device = f"cuda:{context.rank}"
    dist.init_process_group(
        "nccl",
        init_method=f"file://{Path(context.scratch)}/rendezvous",
        rank=context.rank,
        world_size=context.world,
        timeout=datetime.timedelta(seconds=120),
        device_id=torch.device(device),
    )
    tally = collective.Tally()
    for dtype in DTYPES:
        width = torch.empty((), dtype=getattr(torch, dtype)).element_size()
        for size in SIZES:
            tally.add(collective.exact(device=device, dtype=dtype, count=size // width))
    seconds = [_time(torch, dist, size, device) for size in SIZES]
    tally.add(collective.exact(device=device, dtype="float32", count=SIZES[-1] // 4))
    dist.barrier()
    dist.destroy_process_group()
    version = ".".join(str(part) for part in torch.cuda.nccl.version())
    return {**tally.to_dict(), "seconds": seconds, "nccl": version}


def _time(torch: Any, dist: Any, size: int, device: str) -> float:
    """Seconds of one all_reduce of ``size`` bytes in place, by events around many."""
    tensor = torch.zeros(size // 4, dtype=torch.float32, device=device)
    for _ in range(WARM_UP):
        dist.all_reduce(tensor)
    dist.barrier()
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(ITERATIONS[size]):
        dist.all_reduce(tensor)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / ITERATIONS[size]
