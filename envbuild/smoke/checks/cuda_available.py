"""``cuda-available``: this driver runs this image's CUDA, and torch computes on every GPU."""

from __future__ import annotations

import importlib
import os
import re
import warnings
from typing import Any

from ..causes import hint_of
from ..context import Context
from ..cuda import BLACKWELL_FLOOR
from ..gpus import driver_version, judge_driver
from ..model import Failure, NotRun
from ..operators import runs_on, wanted_code

BLACKWELL = 10


def run(context: Context) -> dict[str, Any]:
    """Driver, then every GPU, then how many there are."""
    torch = importlib.import_module("torch")
    driver = driver_version()
    numbers: dict[str, Any] = {"driver": driver, "floor": context.expectations.driver_floor}
    judge_driver(driver, context.expectations.driver_floor, numbers)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available, count = torch.cuda.is_available(), torch.cuda.device_count()
    if not available or count < context.gpus:
        raise Failure(
            expected=f"torch to see the {context.gpus} GPU(s) that are in this container",
            seen=f"is_available() is {available}, {count} GPU(s)"
            + "".join(f"\n{warning.message}" for warning in said),
            hint=_hint("\n".join(str(warning.message) for warning in said)),
            numbers=numbers,
        )
    gpus = [_gpu(torch, index) for index in range(count)]
    numbers["gpus"] = gpus
    for gpu in gpus:
        _architecture(torch, gpu, context)
        for name in ("torch", "operator"):
            if gpu.get(name) == "PTX":
                context.warn(
                    f"GPU {gpu['index']} ({gpu['name']}) runs {name}'s code through PTX, which the driver compiles at "
                    "each first start: a recipe that lists its architecture is faster"
                )
        if gpu["capability"][0] >= BLACKWELL:
            judge_driver(driver, BLACKWELL_FLOOR, numbers)
    wanted = context.expectations.gpus_wanted
    if count < wanted:
        raise NotRun(
            f"{count} GPU(s) here, and a pass needs {wanted}; those that are here work", numbers=numbers
        )
    return numbers


def _hint(said: str) -> str:
    """What torch warned of tells the cause, unless a variable hides GPUs."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return f"CUDA_VISIBLE_DEVICES is {hidden!r}: unset it"
    return hint_of(
        said,
        "`nvidia-smi` in the container shows whether the driver's libraries came in; look for Xid lines in dmesg",
    )


def _gpu(torch: Any, index: int) -> dict[str, Any]:
    """Name one GPU and compute something small and exact on it."""
    properties = torch.cuda.get_device_properties(index)
    place = torch.arange(4096, device=f"cuda:{index}", dtype=torch.float32)
    total = float((place * 2 + 1).sum(dtype=torch.float64).item())
    if total != 4096.0**2:
        raise Failure(
            expected=f"GPU {index}: the sum of the first 4096 odd numbers to be {4096**2}",
            seen=f"{total:.0f}",
            hint="this GPU computes wrongly: `nvidia-smi -q -d ECC`",
        )
    return {
        "index": index,
        "name": properties.name,
        "uuid": str(getattr(properties, "uuid", "")),
        "capability": [properties.major, properties.minor],
        "memory": properties.total_memory,
        "processors": properties.multi_processor_count,
    }


def _architecture(torch: Any, gpu: dict[str, Any], context: Context) -> None:
    """torch and the operator must have code that this GPU runs; through PTX is fine, and is said."""
    capability = (gpu["capability"][0], gpu["capability"][1])
    sources = {"torch": flags(torch._C._cuda_getArchFlags() or "")}
    operator = context.expectations.operator
    if operator is not None:
        sources["operator"] = wanted_code(operator.architectures)
    for name, (code, ptx) in sources.items():
        how = runs_on(capability, code, ptx)
        gpu[name] = how
        if how is None:
            raise Failure(
                expected=f"{name} to have code for compute capability {capability[0]}.{capability[1]}",
                seen=f"machine code for {', '.join(sorted(code))}; PTX for {', '.join(sorted(ptx)) or 'none'}",
                hint=f"a {gpu['name']} needs an image whose recipe lists its architecture",
            )


def flags(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Machine code and PTX in torch's words: ``sm_80 sm_90 compute_90``."""

    def versions(prefix: str) -> frozenset[str]:
        found = re.findall(rf"\b{prefix}_(\d+)(\d)[af]?\b", text)
        return frozenset(f"{major}.{minor}" for major, minor in found)

    return versions("sm"), versions("compute")
