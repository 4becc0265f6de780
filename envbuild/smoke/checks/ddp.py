"""``ddp``: gradients that DistributedDataParallel averages are those of one process with all the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import cpu_adam
from ..context import Context, run_ranks
from ..model import Failure
from ..numbers import finite
from ..surroundings import Place, gpus_of, joined, surroundings

BOUND = 1e-5
"""Length of the difference over the length, for each parameter's gradient, in float32 (docs/reference/suite.md)."""

BUCKET = 0.25
"""Megabytes of gradients that are sent together: less than the model has, so that there are several."""


def run(context: Context) -> dict[str, Any]:
    """One process a GPU."""
    cpu_adam.begin(context)
    return answer(context, gpus_of(context))


def answer(context: Context, place: Place) -> dict[str, Any]:
    """Compare every rank's gradients with the reference and with each other.

    Raises:
        Failure: a gradient is further off than the bound, or two ranks differ in a bit.
    """
    results = run_ranks(context, place.world, environ=surroundings(context, place), options=place.options())
    judge(results)
    worst = max(results, key=lambda result: result["worst"])
    return {
        "ranks": place.world,
        "parameters": worst["parameters"],
        "worst": {"parameter": worst["parameter"], "relative": worst["worst"]},
        "bound": BOUND,
        "bit_equal": True,
        "loss": sum(result["loss"] for result in results) / len(results),
        "reference_loss": worst["reference_loss"],
    }


def judge(results: Sequence[dict[str, Any]]) -> None:
    """Fail where a rank's gradients are not the reference's, or not those of the other ranks.

    Raises:
        Failure: names rank and parameter.
    """
    lines = [
        f"rank {rank}: the gradient of {result['parameter']} is off by {result['worst']:.3g} of its length"
        for rank, result in enumerate(results)
        if not result["worst"] <= BOUND
    ]
    lines += [
        f"rank {rank}: its gradients differ from those of rank {other}"
        for rank, result in enumerate(results)
        for other in result["unequal"]
    ]
    if lines:
        raise Failure(
            expected=f"gradients within {BOUND:g} of those of one process with all the data, the same bits on "
            f"{len(results)} ranks",
            seen="\n".join(lines),
            hint="see the check nccl: gradients are averaged with all_reduce",
            numbers={"ranks": finite(list(results))},
        )


def rank(context: Context) -> dict[str, Any]:
    """One rank: a forward and a backward pass of its share, and one of the whole without DDP."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from .. import transformer

    device = joined(context)
    task = transformer.Task()
    model = transformer.initial(task).to(device)
    if context.rank:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()  # DDP must bring rank 0's
    wrapped = DistributedDataParallel(
        model, device_ids=None if device == "cpu" else [context.rank], bucket_cap_mb=BUCKET
    )
    loss = wrapped(*(part.to(device) for part in transformer.batch_of(task, step=0, rank=context.rank)))
    loss.backward()
    wanted, reference_loss = _reference(task, context.world, device)
    apart = {name: _relative(parameter.grad, wanted[name]) for name, parameter in model.named_parameters()}
    name = max(apart, key=lambda name: (math.isnan(apart[name]), apart[name]))
    return {
        "parameters": len(apart),
        "parameter": name,
        "worst": apart[name],
        "unequal": _unequal(torch.cat([p.grad.flatten() for p in model.parameters()]), context),
        "loss": float(loss.detach()),
        "reference_loss": reference_loss,
    }


def _reference(task: Any, world: int, device: str) -> tuple[dict[str, Any], float]:
    import torch

    from .. import transformer

    model = transformer.initial(task).to(device)
    parts = [transformer.batch_of(task, step=0, rank=rank) for rank in range(world)]
    loss = model(*(torch.cat(tensors).to(device) for tensors in zip(*parts, strict=True)))
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, float(loss.detach())


def _relative(have: Any, want: Any) -> float:
    return float((have.double() - want.double()).norm() / want.double().norm())


def _unequal(mine: Any, context: Context) -> list[int]:
    """The ranks whose gradients differ from this one's in any bit."""
    import torch
    import torch.distributed as dist

    bits = mine.view(torch.int32)
    gathered = torch.empty(context.world * bits.numel(), dtype=torch.int32, device=bits.device)
    dist.all_gather_into_tensor(gathered, bits)
    parts = gathered.view(context.world, -1)
    return [rank for rank in range(context.world) if not torch.equal(parts[rank], bits)]
