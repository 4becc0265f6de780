"""``peer-copy``: what one GPU copies into another's memory arrives, between every pair and both ways."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from .. import cpu_adam, peers
from ..context import Context, run_ranks
from ..model import Failure
from ..surroundings import Place, gpus_of, joined, surroundings

CALLS = 8
"""Copies that are timed together."""


def run(context: Context) -> dict[str, Any]:
    """Rank 0 copies between all GPUs; the others wait."""
    cpu_adam.begin(context)
    return answer(context, gpus_of(context))


def answer(context: Context, place: Place) -> dict[str, Any]:
    """Compare every element of each copy.

    Raises:
        Failure: an element did not arrive.
    """
    results = run_ranks(context, place.world, environ=surroundings(context, place), options=place.options())
    pairs = results[0]["pairs"]
    for pair in pairs:
        if pair["access"] is False:
            context.warn(
                f"GPU {pair['from']} has no peer access to GPU {pair['to']}: copies go by host memory"
            )
    judge(pairs)
    return {"pairs": pairs, "elements": sum(peers.LENGTHS) * len(pairs)}


def judge(pairs: Sequence[dict[str, Any]]) -> None:
    """Fail where a copy is not what was sent.

    Raises:
        Failure: names the pair, the direction and the first wrong element.
    """
    lines = [
        f"GPU {pair['from']} to {pair['to']}, {pair['wrong']['count']} integers: {pair['wrong']['wrong']} wrong, the "
        f"first at {pair['wrong']['place']}: {pair['wrong']['seen']:g} instead of {pair['wrong']['expected']:g}; "
        f"cudaDeviceCanAccessPeer says {'yes' if pair['access'] else 'no'}"
        for pair in pairs
        if pair["wrong"] is not None
    ]
    if lines:
        raise Failure(
            expected=f"every element of {len(pairs)} copies",
            seen="\n".join(lines),
            hint="an IOMMU or ACS that redirects peer traffic does this: see NVIDIA's NCCL troubleshooting, "
            '"PCI Access Control Services"',
            numbers={"pairs": list(pairs)},
        )


def rank(context: Context) -> dict[str, Any]:
    """Copy, compare and time, in rank 0."""
    import torch.distributed as dist

    device = joined(context)
    pairs = []
    if context.rank == 0:
        for source, target in permutations(range(context.world), 2):
            pairs.append(_pair(source, target, device))
    dist.barrier()
    return {"pairs": pairs}


def _pair(source: int, target: int, device: str) -> dict[str, Any]:
    on_gpus = device != "cpu"
    names = (f"cuda:{source}", f"cuda:{target}") if on_gpus else ("cpu", "cpu")
    wrong = None
    for count in peers.LENGTHS:
        found = peers.copied(*names, count=count, salt=2 * source + 3 * target)
        if found is not None and wrong is None:
            wrong = {"count": count, **found}
    pair: dict[str, Any] = {"from": source, "to": target, "wrong": wrong}
    if not on_gpus:
        return {**pair, "access": None, "gbps": None}
    return {**pair, "access": _access(source, target), "gbps": _speed(*names)}


def _access(source: int, target: int) -> bool:
    import torch

    return bool(torch.cuda.can_device_access_peer(source, target))


def _speed(source: str, target: str) -> float:
    """GB/s of a copy of 128 MiB, by events on the sending GPU."""
    import torch

    with torch.cuda.device(source):
        sent = torch.zeros(peers.LENGTHS[-1], dtype=torch.int64, device=source)
        got = torch.zeros_like(sent, device=target)
        torch.cuda.synchronize(target)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(CALLS):
            got.copy_(sent, non_blocking=True)
        end.record()
        end.synchronize()
    seconds = float(begin.elapsed_time(end)) / 1000 / CALLS
    return round(peers.LENGTHS[-1] * 8 / seconds / 1e9, 1)
