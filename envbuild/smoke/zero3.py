"""Training with DeepSpeed's ZeRO in bfloat16, and the arithmetic of its fused optimizer."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch

from .model import Failure
from .numbers import finite
from .transformer import Distance, Task, Trained, batch_of, distance, initial, reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far bfloat16 training may be from the float32 reference (docs/reference/suite.md derives them)."""

    loss: float = 0.005
    norm: float = 0.02
    update: float = 0.10


def config(task: Task, *, stage: int = 3, offload: bool = False, **optimizer: object) -> dict[str, Any]:
    """DeepSpeed's configuration: bfloat16, AdamW, and no parameter so small that stage 3 leaves it whole.

    Args:
        task: sizes and optimizer settings.
        stage: 1, 2 or 3.
        offload: keep optimizer state (and at stage 3 parameters) in the CPU's memory, pinned.
        optimizer: more settings of the optimizer, such as ``torch_adam``.
    """
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = 0
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": task.batch,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 1_000_000,
        "bf16": {"enabled": True},
        "zero_optimization": zero,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": task.lr,
                "betas": list(task.betas),
                "eps": task.eps,
                "weight_decay": task.weight_decay,
                **optimizer,
            },
        },
    }


def start_engine(task: Task, settings: dict[str, Any]) -> Any:
    """Wrap the initial model; the process group exists already."""
    import deepspeed

    model = initial(task)
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=list(model.parameters()), config=settings, dist_init_required=False
    )
    return engine


def release(engine: Any) -> None:
    """Take an engine's hooks and memory away, for the next training in the same process."""
    engine.destroy()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def plainly(step: Callable[[], None]) -> None:
    """Call a step: the ``around_last`` of a training that nobody watches."""
    step()


def train(
    task: Task, engine: Any, *, rank: int, device: str, around_last: Callable[[Callable[[], None]], None]
) -> Trained:
    """Run the task's steps on this rank's batches.

    Args:
        task: sizes and data.
        engine: from :func:`start_engine`.
        rank: whose batches.
        device: where the batches go.
        around_last: is given the last optimizer step to call; a profiler's place.

    Returns:
        Losses averaged over ranks, DeepSpeed's gradient norms, and the gathered float32 master weights.
    """
    import torch.distributed as dist

    losses, norms, seconds = [], [], []
    for step in range(task.steps):
        started = time.perf_counter()
        tokens, targets = (part.to(device) for part in batch_of(task, step=step, rank=rank))
        loss = engine(tokens, targets)
        engine.backward(loss)
        if step == task.steps - 1:
            around_last(engine.step)
        else:
            engine.step()
        mean = loss.detach().float().clone()
        dist.all_reduce(mean)
        losses.append(float(mean) / dist.get_world_size())
        norms.append(float(engine.get_global_grad_norm()))
        seconds.append(round(time.perf_counter() - started, 4))
    return Trained(
        losses=tuple(losses), norms=tuple(norms), seconds=tuple(seconds), weights=master_weights(engine)
    )


def master_weights(engine: Any) -> dict[str, torch.Tensor]:
    """The float32 weights that the optimizer keeps, gathered from all ranks, on the CPU. All ranks must call it."""
    from deepspeed.utils import safe_get_full_fp32_param

    return {
        name: safe_get_full_fp32_param(parameter).detach().float().cpu().clone()
        for name, parameter in engine.module.named_parameters()
    }


def compared(task: Task, trained: Trained, *, world: int, device: str) -> tuple[dict[str, Any], Distance]:
    """Train the reference on the same data and say how far this training is from it.

    Returns:
        Numbers for the report, and the distance for :func:`judge`.
    """
    against = reference(task, world=world, device=device)
    seen = distance(task, trained, against)
    numbers = {
        "losses": list(trained.losses),
        "step_seconds": list(trained.seconds),
        "reference_losses": list(against.losses),
        "gradient_norms": list(trained.norms),
        "reference_gradient_norms": list(against.norms),
        "distance": dataclasses.asdict(seen),
        "bounds": dataclasses.asdict(Bounds()),
        "steps": task.steps,
    }
    return cast(dict[str, Any], finite(numbers)), seen


def judge(seen: Distance, bounds: Bounds, numbers: dict[str, Any], *, what: str = "") -> None:
    """Compare with the bounds; ``what`` says of which training, in front.

    Raises:
        Failure: one is exceeded, or is not a number.
    """
    parts = [
        ("loss", seen.loss, bounds.loss),
        ("gradient norm", seen.norm, bounds.norm),
        ("weight update", seen.update, bounds.update),
    ]
    wrong = [f"{name} off by {value:.3g}" for name, value, bound in parts if not value <= bound]
    if wrong:
        raise Failure(
            expected=what
            + "; ".join(f"{name} within {bound:g}" for name, _, bound in parts)
            + ", relative to torch's AdamW in float32",
            seen=what + "; ".join(wrong),
            hint="wrong sums between the GPUs or a wrong optimizer: see the check nccl and the operator's numbers",
            numbers=numbers,
        )


LENGTHS = (1, 7, 1021, 65537, 2 * 2048 * 32 + 3)
"""Tensor lengths for the operator: odd ones, and more than two of its chunks of 65,536."""


def operator_error(make: Callable[[list[torch.Tensor], Task], Any], task: Task, *, device: str) -> float:
    """Give an optimizer made-up gradients and compare with torch's AdamW in float64.

    Returns:
        The largest error over its bound: at most 1 is right. Each step rounds a weight once (2^-24 relative) and
        subtracts lr times an update whose bias correction 1 - beta2^t is a float32 difference of numbers near
        one, so it is only known to 2^-24 / (1 - beta2). The bound is twice the first and four times the second,
        times the steps.
    """
    generator = torch.Generator().manual_seed(task.seed)
    start = [torch.randn(length, generator=generator) for length in LENGTHS]
    mine = [tensor.clone().to(device).requires_grad_() for tensor in start]
    exact = [tensor.double().requires_grad_() for tensor in start]
    optimizer = make(mine, task)
    settings: dict[str, Any] = {"lr": task.lr, "betas": task.betas, "eps": task.eps}
    against = torch.optim.AdamW(exact, weight_decay=task.weight_decay, foreach=False, **settings)
    for _ in range(task.steps):
        for have, want in zip(mine, exact, strict=True):
            gradient = torch.randn(want.numel(), generator=generator) * 0.01
            have.grad = gradient.to(device)
            want.grad = gradient.double()
        optimizer.step()
        against.step()
    unit = 2.0**-24
    ratios = []
    for have, want in zip(mine, exact, strict=True):
        error = (have.detach().cpu().double() - want.detach()).abs()
        bound = task.steps * (2 * unit * want.detach().abs() + 4 * unit * task.lr / (1 - task.betas[1]))
        ratios.append(float((error / bound).max()))
    return math.nan if any(map(math.isnan, ratios)) else max(ratios)
