"""``zero3-fused-adam``: a ZeRO-3 training with the compiled operator, and proof that it was the shipped one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import cpu_adam
from ..causes import BUILDING, hint_of
from ..context import Context, run_ranks
from ..installed import audit, by_name
from ..model import Failure, Operator
from ..surroundings import Place, built, extensions, gpus_of, joined, surroundings
from .operator_file import locate

KERNEL = re.compile(r"multi_tensor_apply_kernel<.*\bAdamFunctor\b", re.DOTALL)
"""DeepSpeed's kernel. torch's own fused one is named after FusedAdamMathFunctor, which this does not match."""

NO_BUILD = "an operator was to be compiled at run time: the shipped one was not taken"


def run(context: Context) -> dict[str, Any]:
    """One process a GPU, with every way to compile taken away; rank 0 compares with the reference."""
    cpu_adam.begin(context)
    return answer(context, gpus_of(context))


def answer(context: Context, place: Place, *, fused: bool = True) -> dict[str, Any]:
    """Have the ranks train, and see that nothing was compiled meanwhile.

    Args:
        context: the check's own.
        place: where the ranks are.
        fused: with the compiled operator, and proof of it; else with torch's AdamW, for a place without GPUs.

    Raises:
        Failure: the operator was another, the training is too far off the reference, something was compiled.
    """
    results = without_builds(context, place, {"fused": fused})
    return {
        "ranks": place.world,
        **results[0],
        "seconds_by_rank": [result["seconds"] for result in results],
    }


def without_builds(context: Context, place: Place, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """:func:`..context.run_ranks`, and an operator that was compiled meanwhile is a failure, whatever else was seen.

    Raises:
        Failure: that, or what a rank said.
    """
    folder = extensions(context)
    try:
        results = run_ranks(
            context,
            place.world,
            environ=surroundings(context, place),
            options={**place.options(), **options},
        )
    except Failure as failure:
        if built(folder):
            raise Failure(
                expected="no just-in-time build",
                seen=f"{', '.join(built(folder))} in TORCH_EXTENSIONS_DIR\n{failure.seen}",
                hint=NO_BUILD,
            ) from failure
        raise
    if built(folder):
        raise Failure(
            expected="TORCH_EXTENSIONS_DIR to stay empty", seen=", ".join(built(folder)), hint=NO_BUILD
        )
    return results


def rank(context: Context) -> dict[str, Any]:
    """One GPU's process."""
    from .. import transformer, zero3

    device, fused = joined(context), bool(context.options["fused"])
    task = transformer.Task()
    numbers: dict[str, Any] = {}
    if fused:
        operator = context.expectations.operator
        if operator is None:
            raise Failure(expected="an operator", seen="none is expected", hint="see the check operator-file")
        numbers["operator"] = prove_module(operator)
        numbers["operator_error"] = _arithmetic(task, device, numbers)
    started = time.monotonic()
    trained, proof = proven_training(task, context, device, stage=3, fused=fused)
    numbers |= {"seconds": round(time.monotonic() - started, 3), "optimizer": proof}
    if context.rank == 0:
        more, seen = zero3.compared(task, trained, world=context.world, device=device)
        numbers |= more
        zero3.judge(seen, zero3.Bounds(), numbers)
    return numbers


def proven_training(
    task: Any, context: Context, device: str, *, stage: int, fused: bool
) -> tuple[Any, dict[str, Any] | None]:
    """Train at one stage and prove that FusedAdam did it, where it must.

    Raises:
        Failure: the optimizer is another, or its kernel did not run.
    """
    from .. import zero3

    settings = zero3.config(task, stage=stage) if fused else zero3.config(task, stage=stage, torch_adam=True)
    engine = zero3.start_engine(task, settings)
    kernels: list[str] = []
    around = profiler(kernels) if fused else zero3.plainly
    trained = zero3.train(task, engine, rank=context.rank, device=device, around_last=around)
    proof = prove_optimizer(engine, kernels) if fused else None
    zero3.release(engine)
    return trained, proof


def _arithmetic(task: Any, device: str, numbers: dict[str, Any]) -> float:
    from deepspeed.ops.adam import FusedAdam

    from .. import zero3

    def make(parameters: list[Any], task: Any) -> Any:
        return FusedAdam(
            parameters, lr=task.lr, betas=task.betas, eps=task.eps, weight_decay=task.weight_decay
        )

    error = zero3.operator_error(make, task, device=device)
    if not error <= 1:
        raise Failure(
            expected="the operator's weights within float32 rounding of torch's AdamW in float64",
            seen=f"an error of {error:.3g} times the bound, on {device}",
            hint="the operator computes wrongly on this GPU: rebuild it, and run its check on another GPU",
            numbers=numbers,
        )
    return error


def prove_module(operator: Operator) -> dict[str, Any]:
    """DeepSpeed's own loader must give the shipped file, whole.

    Raises:
        Failure: another module, file or hash, or an accelerator that is not CUDA.
    """
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder import FusedAdamBuilder

    accelerator = get_accelerator()._name
    try:
        module = FusedAdamBuilder().load()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise Failure(
            expected=f"DeepSpeed to load {operator.module}",
            seen=f"accelerator {accelerator}; {said}",
            hint=NO_BUILD if BUILDING.search(said) else hint_of(said, "see the check operator-file"),
        ) from error
    path = locate(operator)
    seen = (accelerator, module.__name__, str(Path(module.__file__).resolve()))
    if seen != ("cuda", operator.module, str(path.resolve())):
        raise Failure(
            expected=f"accelerator cuda, module {operator.module} from {path}",
            seen=f"accelerator {seen[0]}, module {seen[1]} from {seen[2]}",
            hint=NO_BUILD,
        )
    report = audit([by_name()["deepspeed"][0]], threads=2)
    if report.problems:
        raise Failure(
            expected="DeepSpeed's files with the hashes of RECORD",
            seen=report.problems[0],
            hint="see the check versions",
        )
    return {"module": module.__name__, "file": str(path), "record": "agrees"}


def profiler(kernels: list[str]) -> Callable[[Callable[[], None]], None]:
    """Call a step under torch's profiler and put the names of the GPU kernels that it ran into ``kernels``."""

    def around(step: Callable[[], None]) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            step()
            torch.cuda.synchronize()
        kernels.extend(sorted({str(event.key) for event in seen.key_averages()}))

    return around


def prove_optimizer(engine: Any, kernels: list[str]) -> dict[str, Any]:
    """The engine's optimizer must be FusedAdam, and its kernel must have run.

    Raises:
        Failure: it is another, or the profiler saw no such kernel.
    """
    kind = type(engine.basic_optimizer)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name != "deepspeed.ops.adam.fused_adam.FusedAdam":
        raise Failure(
            expected="the engine's optimizer to be deepspeed.ops.adam.fused_adam.FusedAdam",
            seen=name,
            hint="DeepSpeed took another one: offload_optimizer and torch_adam do that",
        )
    ran = [kernel for kernel in kernels if KERNEL.search(kernel)]
    if not ran:
        raise Failure(
            expected="the kernel multi_tensor_apply_kernel<... AdamFunctor ...> in the last step",
            seen=f"{len(kernels)} events, among them: " + "; ".join(k for k in kernels if "dam" in k)[:800],
            hint="where the profiler sees no GPU events at all, CUPTI is missing or barred on this host",
        )
    return {"type": name, "kernel": ran[0][:400]}
