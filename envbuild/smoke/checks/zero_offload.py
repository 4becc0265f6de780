"""``zero-offload``: ZeRO-3 with optimizer state and parameters in the CPU's memory agrees with torch's AdamW."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .. import cpu_adam
from ..context import Context, run_ranks
from ..model import Failure
from ..surroundings import Place, gpus_of, joined, surroundings

OPTIMIZERS = {"cpu_adam": "DeepSpeedCPUAdam", "torch_adam": "AdamW"}
"""Two ways to train so: DeepSpeed's default, which is compiled at first use, and ``"torch_adam": true``."""


def run(context: Context) -> dict[str, Any]:
    """One process a GPU."""
    return answer(context, gpus_of(context))


def answer(
    context: Context, place: Place, *, ways: tuple[str, ...] = ("cpu_adam", "torch_adam")
) -> dict[str, Any]:
    """Compile DeepSpeed's optimizer as users get it, then have the ranks train each way.

    Args:
        context: the check's own.
        place: where the ranks are.
        ways: which of :data:`OPTIMIZERS`; losses and seconds of the first are given once more at the top.

    Raises:
        Failure: it cannot be compiled here, something lies on the GPU, or the training is too far off.
    """
    compiled = cpu_adam.wait(context) if "cpu_adam" in ways else None
    results = run_ranks(
        context,
        place.world,
        environ=surroundings(context, place),
        options={
            **place.options(),
            "ways": list(ways),
            "with_compilers": {
                "PATH": os.environ.get("PATH", os.defpath),
                "TORCH_EXTENSIONS_DIR": str(cpu_adam.folder_of(context) / "build"),
            },
        },
    )
    trained = results[0]["ways"]
    return {
        "ranks": place.world,
        "compiled": compiled,
        "ways": trained,
        "losses": trained[ways[0]]["losses"],
        "step_seconds": trained[ways[0]]["step_seconds"],
    }


def rank(context: Context) -> dict[str, Any]:
    """One GPU's process."""
    from .. import transformer, zero3

    device = joined(context)
    task = transformer.Task()
    ways: dict[str, Any] = {}
    for way in context.options["ways"]:
        more = {"torch_adam": True} if way == "torch_adam" else {}
        with _environment(context.options["with_compilers"]):
            engine = zero3.start_engine(task, zero3.config(task, offload=True, **more))
        trained = zero3.train(task, engine, rank=context.rank, device=device, around_last=zero3.plainly)
        where = prove_offload(engine, OPTIMIZERS[way])
        zero3.release(engine)
        if context.rank == 0:
            numbers, seen = zero3.compared(task, trained, world=context.world, device=device)
            ways[way] = {**where, **numbers}
            zero3.judge(seen, zero3.Bounds(), {"ways": ways}, what=f"offloaded, {OPTIMIZERS[way]}: ")
    return {"ways": ways}


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Variables of this process for a while: where the compiled optimizer is, and what its loader asks for."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def prove_offload(engine: Any, wanted: str) -> dict[str, Any]:
    """Optimizer state and this rank's shards of the parameters must be in the CPU's memory.

    Raises:
        Failure: they are elsewhere, or the optimizer is another.
    """
    import torch

    kind = type(engine.basic_optimizer).__name__
    state = {
        value.device.type
        for values in engine.basic_optimizer.state.values()
        for value in values.values()
        if torch.is_tensor(value) and value.dim()
    }
    shards = {parameter.ds_tensor.device.type for parameter in engine.module.parameters()}
    seen = {"optimizer": kind, "state_on": sorted(state), "parameters_on": sorted(shards)}
    if seen != {"optimizer": wanted, "state_on": ["cpu"], "parameters_on": ["cpu"]}:
        raise Failure(
            expected=f"{wanted}, its state and the parameters' shards on the CPU",
            seen=f"{kind}, state on {', '.join(sorted(state)) or 'nothing'}, shards on {', '.join(sorted(shards))}",
            hint="DeepSpeed did not take offload_optimizer and offload_param as configured",
            numbers=seen,
        )
    return seen
