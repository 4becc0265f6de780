"""Collectives with integer patterns, compared element by element, and the formulas of their bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .model import Failure

EXACT = 256
"""bfloat16 holds every integer up to 2**8; so do float16 and float32. Sums stay below, so rounding never enters."""

CHUNK = 1 << 24
"""Elements that are compared at a time: 128 MB of 64-bit integers."""

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
DTYPES = ("float32", "bfloat16", "int64")


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


def fill(tensor: Any, *, rank: int, world: int, offset: int = 0) -> None:
    """Write rank's pattern over a flat tensor whose first element is at place ``offset``."""
    for start in range(0, tensor.numel(), CHUNK):
        part = tensor[start : start + CHUNK]
        part.copy_(
            pattern(
                start=offset + start, count=part.numel(), rank=rank, world=world, device=str(tensor.device)
            )
        )


Wanted = Callable[[int, int], Any]
"""What must be in a tensor: ``(start, count)`` to that many int64 values on the tensor's device."""


def compare(tensor: Any, wanted: Wanted) -> dict[str, Any] | None:
    """``None`` if every element is the wanted one, else the first wrong one and how many."""
    import torch

    wrong, first = 0, None
    for start in range(0, tensor.numel(), CHUNK):
        part = tensor[start : start + CHUNK]
        want = wanted(start, part.numel()).to(tensor.dtype)
        if torch.equal(part, want):
            continue
        places = (part != want).nonzero().flatten()
        wrong += int(places.numel())
        if first is None:
            at = int(places[0])
            first = {"place": start + at, "expected": float(want[at]), "seen": float(part[at])}
    return None if first is None else {**first, "wrong": wrong}


def total(*, world: int, device: str, offset: int = 0) -> Wanted:
    """The sum of all ranks' patterns, from place ``offset`` on."""

    def wanted(start: int, count: int) -> Any:
        import torch

        summed = torch.zeros(count, dtype=torch.int64, device=device)
        for rank in range(world):
            summed += pattern(start=offset + start, count=count, rank=rank, world=world, device=device)
        return summed

    return wanted


def gathered(*, world: int, chunk: int, device: str) -> Wanted:
    """Each rank's own piece of ``chunk`` elements, one after another."""

    def wanted(start: int, count: int) -> Any:
        import torch

        parts, at = [], start
        while at < start + count:
            rank = at // chunk
            until = min((rank + 1) * chunk, start + count)
            parts.append(pattern(start=at, count=until - at, rank=rank, world=world, device=device))
            at = until
        return torch.cat(parts)

    return wanted


def whole(*, kind: str, size: int, width: int, world: int) -> int:
    """How many elements of ``width`` bytes the larger of a collective's buffers has for ``size`` bytes.

    nccl-tests counts that one for all_gather and reduce_scatter. It is a multiple of the number of ranks, at least
    one element each, so on many ranks the smallest sizes become larger ones.
    """
    count = max(1, size // width)
    if kind in ("all_gather", "reduce_scatter"):
        return max(1, count // world) * world
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffers:
    """What a collective takes and gives on this rank; ``given`` is ``taken`` where it works in place."""

    kind: str
    taken: Any
    given: Any
    root: int

    def run(self) -> None:
        """Call it once in the default process group."""
        import torch.distributed as dist

        if self.kind == "all_reduce":
            dist.all_reduce(self.taken)
        elif self.kind == "all_gather":
            dist.all_gather_into_tensor(self.given, self.taken)
        elif self.kind == "reduce_scatter":
            dist.reduce_scatter_tensor(self.given, self.taken)
        else:
            dist.broadcast(self.taken, src=self.root)


def buffers(*, kind: str, device: str, dtype: str, count: int, rank: int, world: int, root: int) -> Buffers:
    """Filled buffers for ``count`` elements in the larger one; what is to be given holds -1 before."""
    import torch

    def empty(length: int) -> Any:
        return torch.empty(length, dtype=getattr(torch, dtype), device=device)

    chunk = count // world
    taken = empty(chunk if kind == "all_gather" else count)
    fill(taken, rank=rank, world=world, offset=rank * chunk if kind == "all_gather" else 0)
    given = taken
    if kind in ("all_gather", "reduce_scatter"):
        given = empty(count if kind == "all_gather" else chunk).fill_(-1)
    return Buffers(kind=kind, taken=taken, given=given, root=root)


def exact(*, device: str, dtype: str, count: int, kind: str = "all_reduce", root: int = 0) -> dict[str, Any]:
    """Run one collective on patterns in the default process group and compare all of its result on this rank.

    Args:
        device: where the tensors are.
        dtype: torch's name of the type.
        count: elements of the larger buffer; a multiple of the number of ranks for all_gather and reduce_scatter.
        kind: one of :data:`KINDS`.
        root: whose values a broadcast sends.
    """
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    have = buffers(kind=kind, device=device, dtype=dtype, count=count, rank=rank, world=world, root=root)
    have.run()
    chunk = count // world
    if kind == "all_gather":
        wanted = gathered(world=world, chunk=chunk, device=device)
    elif kind == "broadcast":

        def wanted(start: int, count: int) -> Any:
            return pattern(start=start, count=count, rank=root, world=world, device=device)
    else:
        wanted = total(world=world, device=device, offset=rank * chunk if kind == "reduce_scatter" else 0)
    return {
        "kind": kind,
        "dtype": dtype,
        "count": count,
        "compared": have.given.numel(),
        "mismatch": compare(have.given, wanted),
    }


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one rank compared."""

    cases: int = 0
    elements: int = 0
    mismatches: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: dict[str, Any]) -> None:
        """Count one case of :func:`exact`."""
        self.cases += 1
        self.elements += int(case["compared"])
        if case["mismatch"] is not None:
            self.mismatches.append(case)

    def to_dict(self) -> dict[str, Any]:
        """For the rank's result."""
        return {"cases": self.cases, "elements": self.elements, "mismatches": self.mismatches}


def judge(results: Sequence[dict[str, Any]]) -> None:
    """Fail if any rank saw a wrong element.

    Raises:
        Failure: names rank, collective, dtype, size, place, expected and seen of each rank's first wrong case.
    """
    lines = []
    for rank, result in enumerate(results):
        for case in result["mismatches"][:1]:
            wrong = case["mismatch"]
            lines.append(
                f"rank {rank}, {case['kind']} of {case['count']} x {case['dtype']}: {wrong['wrong']} wrong, the "
                f"first at {wrong['place']}: {wrong['seen']:g} instead of {wrong['expected']:g} "
                f"({len(result['mismatches'])} of {result['cases']} cases)"
            )
    if lines:
        raise Failure(
            expected=f"every element exact on {len(results)} ranks, in {results[0]['cases']} cases",
            seen="\n".join(lines),
            hint="a library or link gives wrong sums; with GPUs, try NCCL_P2P_DISABLE=1 to tell which",
        )


def factor(kind: str, world: int) -> float:
    """busbw over algbw (nccl-tests, doc/PERFORMANCE.md): what the collective must carry over each link."""
    if kind == "broadcast":
        return 1.0
    share = (world - 1) / world
    return 2 * share if kind == "all_reduce" else share


def bandwidth(size: int, seconds: float, world: int, kind: str = "all_reduce") -> dict[str, float]:
    """algbw = bytes / time and busbw = algbw * :func:`factor`, in GB/s (1e9 bytes)."""
    algbw = size / seconds / 1e9
    return {"algbw": algbw, "busbw": algbw * factor(kind, world)}
