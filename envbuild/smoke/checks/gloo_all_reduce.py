"""``gloo-all-reduce``: torch.distributed works between two processes on CPUs."""

from __future__ import annotations

import datetime
import os
from typing import Any

from .. import collective
from ..context import Context, run_ranks

RANKS = 2
COUNTS = (1, 1021, 1 << 18)
DTYPES = ("float32", "bfloat16", "int64")


def run(context: Context) -> dict[str, Any]:
    """Start two ranks and compare every element that each received."""
    environ = {"GLOO_SOCKET_IFNAME": "lo", **os.environ}
    results = run_ranks(context, RANKS, environ=environ)
    collective.judge(results)
    return {"ranks": RANKS, "cases": results[0]["cases"], "elements": results[0]["elements"]}


def rank(context: Context) -> dict[str, Any]:
    """One process: all_reduce of every size and dtype."""
    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        init_method=f"file://{context.scratch}/gloo",
        rank=context.rank,
        world_size=context.world,
        timeout=datetime.timedelta(seconds=60),
    )
    tally = collective.Tally()
    for dtype in DTYPES:
        for count in COUNTS:
            tally.add(collective.exact(device="cpu", dtype=dtype, count=count))
    return tally.to_dict()
