"""``zero-stages``: trainings at ZeRO-1 and ZeRO-2 with the compiled FusedAdam agree with torch's AdamW."""

from __future__ import annotations

from typing import Any

from .. import cpu_adam
from ..context import Context
from ..surroundings import Place, gpus_of, joined
from .zero3_fused_adam import proven_training, without_builds

STAGES = (1, 2)


def run(context: Context) -> dict[str, Any]:
    """One process a GPU."""
    cpu_adam.begin(context)
    return answer(context, gpus_of(context))


def answer(context: Context, place: Place, *, fused: bool = True) -> dict[str, Any]:
    """Have the ranks train at each stage; ``fused`` as in ``zero3-fused-adam``.

    Returns:
        ``stages`` by number; losses and seconds of the last one once more, where the others have theirs.
    """
    stages = without_builds(context, place, {"fused": fused})[0]["stages"]
    last = stages[str(STAGES[-1])]
    return {
        "ranks": place.world,
        "stages": stages,
        "losses": last["losses"],
        "step_seconds": last["step_seconds"],
    }


def rank(context: Context) -> dict[str, Any]:
    """One GPU's process."""
    from .. import transformer, zero3

    device, fused = joined(context), bool(context.options["fused"])
    task = transformer.Task()
    stages: dict[str, Any] = {}
    for stage in STAGES:
        trained, proof = proven_training(task, context, device, stage=stage, fused=fused)
        if context.rank == 0:
            more, seen = zero3.compared(task, trained, world=context.world, device=device)
            stages[str(stage)] = {"optimizer": proof, **more}
            zero3.judge(seen, zero3.Bounds(), {"stages": stages}, what=f"ZeRO-{stage}: ")
    return {"stages": stages}
