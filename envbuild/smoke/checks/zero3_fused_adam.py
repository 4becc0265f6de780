"""``zero3-fused-adam``: a ZeRO-3 training with the compiled operator, and proof that it was the shipped one."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..context import Context, run_ranks
from ..installed import audit, by_name
from ..model import Failure, Operator
from .operator_file import locate

COMPILERS = frozenset({"nvcc", "ninja", "ninja-build"})
KERNEL = re.compile(r"multi_tensor_apply_kernel<.*\bAdamFunctor\b", re.DOTALL)
"""DeepSpeed's kernel. torch's own fused one is named after FusedAdamMathFunctor, which this does not match."""

NO_BUILD = "an operator was to be compiled at run time: the shipped one was not taken"


def run(context: Context) -> dict[str, Any]:
    """One process a GPU, with every way to compile taken away; rank 0 compares with the reference."""
    import torch

    operator = context.expectations.operator
    world = torch.cuda.device_count()
    if operator is None or world == 0:
        raise Failure(
            expected="GPUs and a compiled operator",
            seen=f"{world} GPU(s), operator: {operator}",
            hint="see the checks cuda-available and operator-file",
        )
    extensions = context.scratch / "extensions"
    extensions.mkdir()
    environ = barred(os.environ, context.scratch, extensions)
    try:
        results = run_ranks(context, world, environ=environ)
    except Failure as failure:
        if built(extensions):
            raise Failure(
                expected="no just-in-time build",
                seen=f"{', '.join(built(extensions))} in TORCH_EXTENSIONS_DIR\n{failure.seen}",
                hint=NO_BUILD,
            ) from failure
        raise
    if built(extensions):
        raise Failure(
            expected="TORCH_EXTENSIONS_DIR to stay empty", seen=", ".join(built(extensions)), hint=NO_BUILD
        )
    return {"ranks": world, **results[0], "seconds_by_rank": [result["seconds"] for result in results]}


def built(extensions: Path) -> list[str]:
    """What was put into the folder for extensions."""
    return sorted(str(path.relative_to(extensions)) for path in extensions.rglob("*"))


def barred(environ: Mapping[str, str], scratch: Path, extensions: Path) -> dict[str, str]:
    """The caller's environment without the means to compile: no nvcc, no ninja, no CUDA_HOME, a fresh folder.

    A folder of PATH that holds a compiler is replaced by one with links to everything else in it.
    """
    path = []
    for number, name in enumerate(environ.get("PATH", os.defpath).split(os.pathsep)):
        folder = Path(name or ".")
        if not any((folder / compiler).exists() for compiler in COMPILERS):
            path.append(name)
            continue
        instead = scratch / f"path{number}"
        instead.mkdir()
        for program in folder.iterdir():
            if program.name not in COMPILERS:
                (instead / program.name).symlink_to(program)
        path.append(str(instead))
    kept = {name: value for name, value in environ.items() if name not in ("DS_ACCELERATOR", "CUDACXX")}
    nowhere = str(scratch / "no-cuda")
    return {
        **kept,
        "PATH": os.pathsep.join(path),
        "CUDA_HOME": nowhere,
        "CUDA_PATH": nowhere,
        "TORCH_EXTENSIONS_DIR": str(extensions),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
    }


def rank(context: Context) -> dict[str, Any]:
    """One GPU's process."""
    import time

    import torch
    import torch.distributed as dist

    from .. import transformer, zero3

    operator = context.expectations.operator
    if operator is None:
        raise Failure(expected="an operator", seen="none is expected", hint="see the check operator-file")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.set_device(context.rank)
    device = f"cuda:{context.rank}"
    dist.init_process_group(
        "nccl",
        init_method=f"file://{context.scratch}/rendezvous",
        rank=context.rank,
        world_size=context.world,
        timeout=datetime.timedelta(seconds=180),
        device_id=torch.device(device),
    )
    numbers: dict[str, Any] = {"operator": prove_module(operator)}
    task, bounds = transformer.Task(), zero3.Bounds()
    numbers["operator_error"] = _arithmetic(task, device, numbers)
    started = time.monotonic()
    engine = zero3.start_engine(task, zero3.config(task))
    kernels: list[str] = []
    trained = zero3.train(task, engine, rank=context.rank, device=device, around_last=profiler(kernels))
    torch.cuda.synchronize()
    numbers["seconds"] = round(time.monotonic() - started, 3)
    numbers["optimizer"] = prove_optimizer(engine, kernels)
    if context.rank == 0:
        against = transformer.reference(task, world=context.world, device=device)
        seen = transformer.distance(task, trained, against)
        numbers |= {
            "losses": list(trained.losses),
            "reference_losses": list(against.losses),
            "gradient_norms": list(trained.norms),
            "reference_gradient_norms": list(against.norms),
            "distance": _finite(dataclasses.asdict(seen)),
            "bounds": dataclasses.asdict(bounds),
            "steps": task.steps,
        }
        zero3.judge(seen, bounds, numbers)
    dist.barrier()
    dist.destroy_process_group()
    return numbers


def _finite(values: dict[str, float]) -> dict[str, float | str]:
    """JSON has no NaN: it becomes text."""
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


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
        raise Failure(
            expected=f"DeepSpeed to load {operator.module}",
            seen=f"accelerator {accelerator}; {type(error).__name__}: {error}",
            hint=NO_BUILD,
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
