"""``arithmetic``: matrix products and convolutions on every GPU, in every precision, against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..context import Context
from ..maps import MAPS, mapped_libraries
from ..model import Failure

TENSOR_CORES = (8, 0)
"""The first compute capability with TensorFloat-32 and bfloat16 (CUDA C++ programming guide)."""

OPERATOR = "aten::cudnn_convolution"
"""What torch's profiler names a convolution that cuDNN computes; others have names of their own."""


def run(context: Context) -> dict[str, Any]:
    """Compute the float64 results on the CPU once, then everything on each GPU."""
    import torch

    from .. import arithmetic

    # Sums of partial products in bfloat16 or float16 would be a precision of their own.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    count = torch.cuda.device_count()
    if count == 0:
        raise Failure(
            expected=f"{context.gpus} GPU(s)", seen="torch sees none", hint="see the check cuda-available"
        )
    exact = {
        (case.name, precision.name): arithmetic.exact(case, precision)
        for case in arithmetic.cases()
        for precision in arithmetic.PRECISIONS
        if precision is not arithmetic.TF32
    }
    gpus = []
    for index in range(count):
        lower = torch.cuda.get_device_capability(index) >= TENSOR_CORES
        if not lower:
            context.warn(f"GPU {index} has no TensorFloat-32 and no bfloat16: those were not computed on it")
        gpus.append(one_gpu(index, exact, lower=lower))
    return {
        "unit": "the largest error over its bound; 1 is the limit",
        "gpus": gpus,
        "cudnn": {"version": torch.backends.cudnn.version(), "operator": OPERATOR, "mapped": _cudnn()},
    }


def one_gpu(index: int, exact: dict[tuple[str, str], Any], *, lower: bool) -> dict[str, Any]:
    """All cases on one GPU.

    Args:
        index: which.
        exact: float64 results by the names of case and precision.
        lower: whether it has TensorFloat-32 and bfloat16.

    Raises:
        Failure: a result is beyond its bound, tf32 was not used, or cuDNN was not.
    """
    import torch

    from .. import arithmetic

    where = f"GPU {index} ({torch.cuda.get_device_name(index)})"
    errors: dict[str, dict[str, float]] = {}
    tf32: dict[str, float] = {}
    for case in arithmetic.cases():
        for precision in arithmetic.PRECISIONS:
            if not lower and precision.name in ("tf32", "bf16"):
                continue
            same = arithmetic.FP32 if precision is arithmetic.TF32 else precision
            against = exact[case.name, same.name]
            arithmetic.set_tf32(precision is arithmetic.TF32)
            seen = arithmetic.multiply(
                case, against.left.to(f"cuda:{index}"), against.right.to(f"cuda:{index}")
            )
            judged = arithmetic.judge(case, precision, against, seen, where=where)
            errors.setdefault(case.name, {})[precision.name] = round(judged.error, 4)
            if precision is arithmetic.TF32:
                arithmetic.judge_lower(case, judged, where=where)
                tf32[case.name] = round(judged.of_fp32, 1)
    arithmetic.set_tf32(False)
    judge_cudnn(convolution_operators(f"cuda:{index}"), where=where)
    return {"index": index, "errors": errors, "tf32_over_fp32_bound": tf32}


def convolution_operators(device: str) -> list[str]:
    """The names under which torch's profiler saw a convolution on ``device``."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from .. import arithmetic

    case = arithmetic.cases()[-1]
    left, right = (part.float().to(device) for part in (case.left, case.right))
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        arithmetic.multiply(case, left, right)
    return sorted({str(event.key) for event in seen.key_averages() if "conv" in str(event.key)})


def judge_cudnn(operators: list[str], *, where: str) -> None:
    """cuDNN must have computed it.

    Raises:
        Failure: it was something else.
    """
    if OPERATOR not in operators:
        raise Failure(
            expected=f"a convolution on {where} to run as {OPERATOR}",
            seen=", ".join(operators) or "no convolution",
            hint="cuDNN is off (torch.backends.cudnn.enabled) or does not load: see the check loaded",
        )


def _cudnn() -> list[str]:
    """cuDNN's libraries in this process: the engines are loaded when the first convolution needs them."""
    mapped = mapped_libraries(MAPS.read_text())
    return sorted({Path(path).name for stem, paths in mapped.items() if "cudnn" in stem for path in paths})
