"""How long a collective takes, by size: the points of the bandwidth curve."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .collective import KINDS, bandwidth, buffers, whole

SMALLEST, LARGEST = 8, 1 << 30
"""Bytes. The largest is where a link shows its bandwidth."""

BUDGET = 0.03
"""Seconds that the calls of one point take about, so that a slow link does not take minutes."""

FEWEST, MOST = 4, 100
"""Calls that are timed together."""

FORMULA = (
    "algbw = bytes / time; busbw = algbw * 2(n-1)/n (all_reduce), (n-1)/n (all_gather, reduce_scatter), 1 (broadcast); "
    "bytes: the larger buffer; GB = 1e9 bytes; time: CUDA events around many calls, slowest rank"
)


def sizes(largest: int = LARGEST) -> list[int]:
    """8 bytes to ``largest``, doubling."""
    found = [SMALLEST]
    while found[-1] * 2 <= largest:
        found.append(found[-1] * 2)
    return found


def lengths(kind: str, *, width: int, world: int, largest: int = LARGEST) -> list[int]:
    """The elements of the larger buffer for each size, each once (many ranks round small sizes to the same)."""
    return sorted({whole(kind=kind, size=size, width=width, world=world) for size in sizes(largest)})


@dataclass(slots=True, kw_only=True)
class Stopwatch:
    """Seconds that queued work takes: by CUDA events on a GPU, by the clock elsewhere."""

    device: str

    def of(self, work: Any, calls: int) -> float:
        """Call ``work`` so many times and return the seconds of one."""
        import torch
        import torch.distributed as dist

        dist.barrier()
        if not self.device.startswith("cuda"):
            started = time.perf_counter()
            for _ in range(calls):
                work()
            return (time.perf_counter() - started) / calls
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000 / calls


def agreed(seconds: float, device: str) -> float:
    """The slowest rank's seconds, the same number on all."""
    import torch
    import torch.distributed as dist

    slowest = torch.tensor([seconds], dtype=torch.float64, device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return float(slowest)


def measure(*, device: str, largest: int = LARGEST) -> dict[str, list[dict[str, float]]]:
    """Every collective's curve in float32, in the default process group; the same on all ranks."""
    import torch.distributed as dist

    world = dist.get_world_size()
    return {
        kind: [
            {"bytes": size, "seconds": seconds, **bandwidth(size, seconds, world, kind)}
            for size, seconds in _points(kind, device, world, largest)
        ]
        for kind in KINDS
    }


def _points(kind: str, device: str, world: int, largest: int) -> Iterator[tuple[int, float]]:
    import torch.distributed as dist

    watch = Stopwatch(device=device)
    for count in lengths(kind, width=4, world=world, largest=largest):
        have = buffers(
            kind=kind, device=device, dtype="float32", count=count, rank=dist.get_rank(), world=world, root=0
        )
        have.taken.zero_()  # sums of sums would leave float32's range
        have.run()
        once = agreed(watch.of(have.run, 1), device)
        calls = max(FEWEST, min(MOST, int(BUDGET / once)))
        yield count * 4, agreed(watch.of(have.run, calls), device)


def peaks(curve: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """The best bus bandwidth of each collective, in GB/s."""
    return {kind: max(point["busbw"] for point in points) for kind, points in curve.items()}
