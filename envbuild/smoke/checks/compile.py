"""``compile``: torch.compile and Triton work in the image as it is, and compute what eager torch computes."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

from ..causes import complaints, hint_of, own_output
from ..context import Context
from ..model import Failure

UNKNOWN = "the check's output below has the compiler's own words and the traceback"


def run(context: Context) -> dict[str, Any]:
    """With empty caches: the model, then the kernel, on the first GPU of each kind."""
    inductor, triton = context.scratch / "inductor", context.scratch / "triton"
    # Read when torch and Triton are imported, which is below. One thread: a pool of workers imports torch again in
    # each, which takes longer than compiling a few small kernels.
    os.environ |= {
        "TORCHINDUCTOR_CACHE_DIR": str(inductor),
        "TRITON_CACHE_DIR": str(triton),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    import torch

    if torch.cuda.device_count() == 0:
        raise Failure(
            expected=f"{context.gpus} GPU(s)", seen="torch sees none", hint="see the check cuda-available"
        )
    kinds = {torch.cuda.get_device_capability(i): i for i in reversed(range(torch.cuda.device_count()))}
    gpus = [one_gpu(f"cuda:{index}", inductor, triton) for index in sorted(kinds.values())]
    return {
        "gpus": gpus,
        "compiler": shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc"),
        "nvcc": shutil.which("nvcc"),
    }


def one_gpu(device: str, inductor: Path, triton: Path) -> dict[str, Any]:
    """The model and the kernel on one GPU.

    Raises:
        Failure: something does not compile, or computes something else.
    """
    import torch

    from .. import compiling

    torch.cuda.set_device(torch.device(device))
    where = f"{device} ({torch.cuda.get_device_name(device)})"
    started = time.monotonic()
    try:
        against, plain, fast, graphs = compiling.passes(device)
        between = time.monotonic()
        target, sums = compiling.launch(device)
    except Failure:
        raise
    except Exception as error:
        raise not_compiled(error, where=where) from error
    ended = time.monotonic()
    ratios = compiling.judge(against, plain, fast, where=where)
    compiling.judge_kernel(target, sums, where=where)
    caches = compiling.judge_caches(graphs, inductor, triton, ("triton_", "mix"))
    return {
        "device": where,
        "error_over_bound": {name: round(value, 4) for name, value in ratios.items()},
        "model_seconds": round(between - started, 3),
        "kernel_seconds": round(ended - between, 3),
        **caches,
    }


def not_compiled(error: Exception, *, where: str) -> Failure:
    """The failure that an exception while compiling is; its traceback goes to the check's output."""
    printed = own_output()
    traceback.print_exception(error)
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = [line for line in complaints(printed) if line not in str(error)]
    return Failure(
        expected=f"torch.compile and Triton to compile on {where}",
        seen=f"{type(error).__name__}: " + "\n".join([*lines[:6], *said]),
        hint=hint_of(f"{type(error).__name__}: {error}\n{printed}", UNKNOWN),
    )
