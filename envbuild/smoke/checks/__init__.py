"""The checks, in the order in which they run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ..context import Context
from ..model import Expectations


class Module(Protocol):
    """A check's module: ``run`` answers; ``rank`` is what each process of a collective does."""

    run: Callable[[Context], dict[str, Any]]
    rank: Callable[[Context], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question. ``timeout`` in seconds; ``gpu``: it needs GPUs; ``operator``: only where one is compiled."""

    id: str
    reason: str
    timeout: float
    gpu: bool = False
    operator: bool = False

    def load(self) -> Module:
        """Import the check's code (in its own process only)."""
        return cast(Module, importlib.import_module(f".{self.id.replace('-', '_')}", __name__))


CHECKS = (
    Check(
        id="versions",
        reason="every package is the locked one, and torch, CUDA and the operator are whole",
        timeout=600,
    ),
    Check(
        id="imports", reason="torch, torchvision, triton and deepspeed import from site-packages", timeout=300
    ),
    Check(
        id="loaded",
        reason="the CUDA libraries that a process really maps are the pinned ones, once",
        timeout=300,
    ),
    Check(
        id="operator-file",
        reason="the compiled operator is a CUDA object for the locked architectures",
        timeout=180,
        operator=True,
    ),
    Check(id="gloo-all-reduce", reason="two processes add up tensors over gloo, exactly", timeout=180),
    Check(id="cuda-available", reason="torch computes on every GPU under this driver", timeout=180, gpu=True),
    Check(
        id="nccl-all-reduce",
        reason="all GPUs add up tensors over NCCL, every element exact, bandwidth measured",
        timeout=300,
        gpu=True,
    ),
    Check(
        id="zero3-fused-adam",
        reason="ZeRO-3 steps with the compiled FusedAdam agree with torch's AdamW",
        timeout=420,
        gpu=True,
        operator=True,
    ),
)


def applicable(expectations: Expectations) -> tuple[Check, ...]:
    """The checks that a pass must have: all, or without the operator's where the recipe compiles none."""
    return tuple(check for check in CHECKS if expectations.operator is not None or not check.operator)


def find(name: str) -> Check:
    """The check of that id.

    Raises:
        KeyError: there is none.
    """
    for check in CHECKS:
        if check.id == name:
            return check
    raise KeyError(name)
