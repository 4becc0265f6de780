"""Model sizes and memory as people write them: 7b, 350m, 1.3e9; 80, 80GiB, h100."""

from __future__ import annotations

import re
from types import MappingProxyType

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe.suggest import nearest

GB = 1_000_000_000
LARGEST_MODEL = 10**14
"""Parameters. Beyond a hundred trillion it is a mistake in the unit."""

GPUS = MappingProxyType(
    {
        "b200": 180,
        "gh200": 96,
        "h200": 141,
        "h100": 80,
        "h100-nvl": 94,
        "a100-80": 80,
        "a100-40": 40,
        "a40": 48,
        "a30": 24,
        "a10": 24,
        "a10g": 24,
        "a6000": 48,
        "l40s": 48,
        "l40": 48,
        "l4": 24,
        "v100-32": 32,
        "v100-16": 16,
        "p100": 16,
        "t4": 16,
        "rtx6000-ada": 48,
        "5090": 32,
        "4090": 24,
        "4080": 16,
        "3090": 24,
    }
)
"""GB (10^9 bytes) by NVIDIA's data sheets. The real figure is a little more: an H200 of 141 GB has 150.8e9 bytes."""

_SEVERAL = {"a100": "a100-40 or a100-80", "v100": "v100-16 or v100-32"}
_COUNT = re.compile(r"(\d[\d_,]*(?:\.\d+)?(?:e[+]?\d{1,2})?)\s*([kmbgt]?)", re.IGNORECASE)
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b?)?", re.IGNORECASE)
_MEMORIES = {"": GB, "m": 10**6, "mi": 2**20, "g": GB, "gi": 2**30, "t": 10**12, "ti": 2**40}


def parse_parameters(text: str) -> int:
    """How many parameters: ``7b``, ``350m``, ``6.7B``, ``1.3e9``, ``124,439,808``.

    Raises:
        EnvbuildError: ``model-size``, exit 2: not a number, zero, or more than any model has.
    """
    found = _COUNT.fullmatch(text.strip())
    number = float(re.sub("[_,]", "", found[1])) * _COUNTS[found[2].lower()] if found else -1.0
    if number < 0:
        raise _bad("model-size", f"{text!r} is no number of parameters")
    if number < 1:
        raise _bad("model-size", f"a model of {text} parameters has nothing to train")
    if number > LARGEST_MODEL:
        raise _bad("model-size", f"{text} parameters is more than any model has ({LARGEST_MODEL:.0e})")
    return round(number)


def _bad(id: str, message: str) -> EnvbuildError:
    return EnvbuildError(id, message, hint="write it like --params 7b, 350m, 6.7B or 1.3e9", exit=Exit.USAGE)


def parse_memory(text: str, option: str) -> int:
    """Bytes of memory: ``80`` and ``80GB`` are 80·10^9, ``80GiB`` is 80·2^30; a GPU's name is its data sheet's figure.

    Args:
        text: as typed.
        option: whose value it is, for the error.

    Raises:
        EnvbuildError: ``memory``, exit 2: neither a number with a unit nor a GPU that is known, or zero.
    """
    name = text.strip().lower().replace("_", "-").replace(" ", "-")
    name = name.removeprefix("nvidia-").removeprefix("geforce-").removeprefix("rtx-")
    name = re.sub(r"^rtx(?=\d{4}$)", "", name)
    if name in GPUS and not (name.isdecimal() and option != "--gpu-memory"):
        return GPUS[name] * GB
    found = _MEMORY.fullmatch(text.strip())
    unit = (found[2] or "").lower().removesuffix("b") if found else ""
    if name in _SEVERAL:
        raise _memory(option, f"{text} comes in two sizes", f"write {_SEVERAL[name]}")
    if found is None or unit not in _MEMORIES:
        guess = nearest(name, GPUS)
        hint = f"did you mean {guess[0]}? " if guess else ""
        hint += f"write GB (80), a unit (80GiB) or a GPU: {', '.join(GPUS)}"
        raise _memory(option, f"{text!r} is neither an amount of memory nor a GPU that is known", hint)
    amount = round(float(found[1]) * _MEMORIES[unit])
    if amount <= 0:
        raise _memory(option, f"{text} is no memory at all", "write GB (80), a unit (80GiB) or a GPU (h100)")
    if amount > 10**15:
        raise _memory(option, f"{text} is more memory than anything has", "a number without a unit is GB: 80")
    return amount


def _memory(option: str, message: str, hint: str) -> EnvbuildError:
    return EnvbuildError("memory", f"{option}: {message}", hint=hint, exit=Exit.USAGE)


def count_text(number: int) -> str:
    """Parameters for people: 6.7 billion is ``6.7B``."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def memory_text(amount: float) -> str:
    """Bytes for people: ``45.5 GB`` (10^9), ``120 MB``."""
    return f"{amount / GB:.1f} GB" if amount >= GB / 10 else f"{amount / 1e6:.0f} MB"
