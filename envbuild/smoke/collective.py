"""All-reduce with integer patterns, compared element by element, and its bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .model import Failure

EXACT = 256
"""bfloat16 holds every integer up to 2**8; so do float16 and float32. Sums stay below, so rounding never enters."""

CHUNK = 1 << 24
"""Elements that are compared at a time: 128 MB of 64-bit integers."""


def modulus(world: int) -> int:
    """How many different values a pattern has, so that the sum of ``world`` of them is at most :data:`EXACT`."""
    return max(2, min(31, EXACT // world + 1))


def pattern(*, start: int, count: int, rank: int, world: int, device: str) -> Any:
    """``count`` small integers that depend on place and rank, as int64 on ``device``, from place ``start`` on.

    The shifts make a value depend on high bits of its place too, so a block that lands elsewhere is seen.
    """
    import torch

    place = torch.arange(start, start + count, device=device, dtype=torch.int64)
    mixed = (place ^ (place >> 7) ^ (place >> 15)) * 31 + (place >> 21) * 7 + rank * 17 + 5
    return mixed % modulus(world)


def fill(tensor: Any, *, rank: int, world: int) -> None:
    """Write rank's pattern over a flat tensor."""
    for start in range(0, tensor.numel(), CHUNK):
        part = tensor[start : start + CHUNK]
        part.copy_(
            pattern(start=start, count=part.numel(), rank=rank, world=world, device=str(tensor.device))
        )


def compare(tensor: Any, *, world: int) -> dict[str, Any] | None:
    """``None`` if every element is the sum of all ranks' patterns, else the first wrong one and how many."""
    import torch

    wrong, first = 0, None
    for start in range(0, tensor.numel(), CHUNK):
        part = tensor[start : start + CHUNK]
        want = torch.zeros(part.numel(), dtype=torch.int64, device=tensor.device)
        for rank in range(world):
            want += pattern(
                start=start, count=part.numel(), rank=rank, world=world, device=str(tensor.device)
            )
        want = want.to(tensor.dtype)
        if torch.equal(part, want):
            continue
        places = (part != want).nonzero().flatten()
        wrong += int(places.numel())
        if first is None:
            at = int(places[0])
            first = {"place": start + at, "expected": float(want[at]), "seen": float(part[at])}
    return None if first is None else {**first, "wrong": wrong}


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one rank compared."""

    cases: int = 0
    elements: int = 0
    mismatches: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: dict[str, Any]) -> None:
        """Count one case of :func:`exact`."""
        self.cases += 1
        self.elements += int(case["count"])
        if case["mismatch"] is not None:
            self.mismatches.append(case)

    def to_dict(self) -> dict[str, Any]:
        """For the rank's result."""
        return {"cases": self.cases, "elements": self.elements, "mismatches": self.mismatches}


def exact(*, device: str, dtype: str, count: int) -> dict[str, Any]:
    """All-reduce one pattern in the default process group and compare all of it on this rank."""
    import torch
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    tensor = torch.empty(count, dtype=getattr(torch, dtype), device=device)
    fill(tensor, rank=rank, world=world)
    dist.all_reduce(tensor)
    return {"dtype": dtype, "count": count, "mismatch": compare(tensor, world=world)}


def judge(results: Sequence[dict[str, Any]]) -> None:
    """Fail if any rank saw a wrong element.

    Raises:
        Failure: names rank, dtype, size, place, expected and seen of each rank's first wrong case.
    """
    lines = []
    for rank, result in enumerate(results):
        for case in result["mismatches"][:1]:
            wrong = case["mismatch"]
            lines.append(
                f"rank {rank}, {case['count']} x {case['dtype']}: {wrong['wrong']} wrong, the first at "
                f"{wrong['place']}: {wrong['seen']:g} instead of {wrong['expected']:g}"
            )
    if lines:
        raise Failure(
            expected=f"every element exact on {len(results)} ranks, in {results[0]['cases']} cases",
            seen="\n".join(lines),
            hint="a library or link gives wrong sums; with GPUs, try NCCL_P2P_DISABLE=1 to tell which",
        )


def bandwidth(size: int, seconds: float, world: int) -> dict[str, float]:
    """algbw = bytes / time, busbw = algbw * 2(n-1)/n (nccl-tests, PERFORMANCE.md), in GB/s (1e9 bytes)."""
    algbw = size / seconds / 1e9
    return {"algbw": algbw, "busbw": algbw * 2 * (world - 1) / world}
