"""``zero-checkpoint``: a sharded checkpoint becomes one file by its own script, and that holds the exact weights."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import cpu_adam
from ..causes import hint_of
from ..context import Context
from ..model import Failure
from ..surroundings import Place, gpus_of, joined
from .zero3_fused_adam import without_builds

STEPS = 2
SCRIPT = "zero_to_fp32.py"
"""DeepSpeed copies it into every checkpoint."""

SPLITTER = "huggingface_hub"
"""The script's command line always splits what it writes, and imports this for it; DeepSpeed does not require it."""

WITHOUT_SPLITTER = (
    f"`python {SCRIPT} CHECKPOINT OUT` ends with an ImportError here, for {SPLITTER} is not installed; what it does "
    "was tested by its function convert_zero_checkpoint_to_fp32_state_dict(…, max_shard_size=None)"
)

UNSPLIT = (
    "import sys; folder, target = sys.argv[1:]; sys.path.insert(0, folder); import zero_to_fp32; "
    "zero_to_fp32.convert_zero_checkpoint_to_fp32_state_dict(folder, target, max_shard_size=None)"
)

TIME = 120
"""Seconds that the script may take."""


def run(context: Context) -> dict[str, Any]:
    """One process a GPU."""
    cpu_adam.begin(context)
    return answer(context, gpus_of(context))


def answer(context: Context, place: Place, *, fused: bool = True) -> dict[str, Any]:
    """Train, save, merge, load and compare; ``fused`` as in ``zero3-fused-adam``.

    Raises:
        Failure: the script failed, or a weight is another, in the merged file or after resuming.
    """
    results = without_builds(context, place, {"fused": fused})
    return {"ranks": place.world, **results[0]}


def rank(context: Context) -> dict[str, Any]:
    """One GPU's process: rank 0 runs the script while the others wait."""
    import torch.distributed as dist

    from .. import transformer, zero3

    device = joined(context)
    task = transformer.Task(steps=STEPS)
    more = {} if context.options["fused"] else {"torch_adam": True}
    engine = zero3.start_engine(task, zero3.config(task, **more))
    trained = zero3.train(task, engine, rank=context.rank, device=device, around_last=zero3.plainly)
    folder = context.scratch / "checkpoint"
    engine.save_checkpoint(str(folder))
    dist.barrier()
    numbers: dict[str, Any] = {"losses": list(trained.losses), "step_seconds": list(trained.seconds)}
    if context.rank == 0:
        numbers |= _size(folder)
        if find_spec(SPLITTER) is None:
            context.warn(WITHOUT_SPLITTER)
        numbers["merge_seconds"] = merge(folder, context.scratch / "merged")
        weights = loaded(task, context.scratch / "merged")
        numbers["weights"] = same(trained.weights, weights, f"the weights that {SCRIPT} wrote", numbers)
    dist.barrier()
    zero3.train(task, engine, rank=context.rank, device=device, around_last=zero3.plainly)
    engine.load_checkpoint(str(folder))
    resumed = zero3.master_weights(engine)
    zero3.release(engine)
    if context.rank == 0:
        same(trained.weights, resumed, "the weights after load_checkpoint", numbers)
    return numbers


def _size(folder: Path) -> dict[str, Any]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    shards = [path for path in files if path.name.endswith("optim_states.pt")]
    return {"files": len(files), "shards": len(shards), "bytes": sum(path.stat().st_size for path in files)}


def merge(folder: Path, target: Path) -> float:
    """Run the checkpoint's own script as a process, as a user would: where it lacks what its command line needs,
    by its function without that.

    Returns:
        Seconds.

    Raises:
        Failure: it ended badly; with the end of what it printed.
    """
    started = time.monotonic()
    how = [str(folder / SCRIPT)] if find_spec(SPLITTER) else ["-c", UNSPLIT]
    done = subprocess.run(
        [sys.executable, *how, str(folder), str(target)],
        env={name: value for name, value in os.environ.items() if not name.startswith(("RANK", "MASTER_"))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=TIME,
        check=False,
    )
    if done.returncode != 0:
        raise Failure(
            expected=f"{SCRIPT} to merge the checkpoint",
            seen=f"status {done.returncode}:\n{done.stdout.strip()[-2000:]}",
            hint=hint_of(
                done.stdout, "the script's own words are above: a file of the checkpoint is missing or cut"
            ),
        )
    return round(time.monotonic() - started, 3)


def loaded(task: Any, folder: Path) -> dict[str, Any]:
    """Load the merged file into the plain model, every name of it, and give its weights.

    Raises:
        Failure: a name is missing or too many, or a shape is another.
    """
    import torch

    from .. import transformer

    model = transformer.Transformer(task)
    try:
        model.load_state_dict(torch.load(folder / "pytorch_model.bin", weights_only=True), strict=True)
    except (RuntimeError, OSError) as error:
        raise Failure(
            expected=f"what {SCRIPT} wrote to load into the model",
            seen=str(error)[-2000:],
            hint=hint_of(str(error), "a shard is missing or of another training"),
        ) from error
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def same(
    wanted: Mapping[str, Any], seen: Mapping[str, Any], what: str, numbers: dict[str, Any]
) -> dict[str, int]:
    """Fail unless every weight has the same bits.

    Returns:
        How many tensors and elements were compared.

    Raises:
        Failure: names the first parameter that differs, and how many of its elements do.
    """
    import torch

    for name, want in wanted.items():
        have = seen[name]
        if not torch.equal(have, want):
            wrong = int((have != want).sum()) if have.shape == want.shape else want.numel()
            raise Failure(
                expected=f"{what} to equal the optimizer's float32 weights exactly",
                seen=f"{name}: {wrong} of {want.numel()} elements differ",
                hint="a shard of the checkpoint is not the rank's own, or was cut",
                numbers=numbers,
            )
    return {"tensors": len(wanted), "elements": sum(int(want.numel()) for want in wanted.values())}
