"""The checks: what each needs, and which may run at the same time.

To add one: write ``checks/<id with _ for ->.py`` with ``run(context) -> numbers`` (and ``rank(context) -> numbers``
where :func:`..context.run_ranks` starts processes), and an entry in :data:`CHECKS`, whose order is the report's.

- ``run`` returns numbers that JSON can hold; it raises ``Failure`` for no and ``NotRun`` where it cannot be asked.
  ``context.warn("one line")`` says what does not fail; a rank may call it too.
- ``needs="cpu"``: no GPU. ``"gpu"``: at least one, and ``run`` uses all that there are. ``"gpus"``: at least two;
  with one GPU it is not run, and expectations that want fewer than two GPUs do not call for it.
- ``beside`` says what may run meanwhile. ``"any"``: everything but a check that is alone (for what neither measures
  time nor fills a GPU). ``"cpu"``: those, but no other of its own kind (for what fills GPUs or the processor with its
  ranks). ``"none"``: nothing at all (for what measures bandwidth or time); such checks come after the others.
  ``"last"``: nothing, after all others.
- ``timeout`` is in seconds of wall time, and allows for a slow disk and for checks beside it.
- ``operator=True``: only where the recipe compiles an operator.
- ``group``: checks with the same name take turns in one process and share the ranks that it keeps
  (:mod:`..hosting`, :mod:`..team`), which saves starting them; each has an answer and a time limit of its own, and one
  that fails in a rank, crashes or hangs ends the ranks: the next gets fresh ones.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from ..context import Context
from ..model import Expectations

Needs = Literal["cpu", "gpu", "gpus"]
Beside = Literal["any", "cpu", "none", "last"]


class Module(Protocol):
    """A check's module: ``run`` answers; ``rank`` is what each process of a collective does."""

    run: Callable[[Context], dict[str, Any]]
    rank: Callable[[Context], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question. ``timeout`` in seconds; the module's docstring says what the other fields mean."""

    id: str
    reason: str
    timeout: float
    needs: Needs = "cpu"
    beside: Beside = "any"
    operator: bool = False
    group: str = ""

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
    Check(
        id="host",
        reason="the driver, the GPUs' health and the container's limits are fit for training",
        timeout=60,
        needs="gpu",
        beside="last",
    ),
    Check(id="gloo-all-reduce", reason="two processes add up tensors over gloo, exactly", timeout=180),
    Check(
        id="cuda-available", reason="torch computes on every GPU under this driver", timeout=180, needs="gpu"
    ),
    Check(
        id="arithmetic",
        reason="matrix products and convolutions in every precision are as near to float64 as they must be",
        timeout=240,
        needs="gpu",
    ),
    Check(
        id="compile",
        reason="torch.compile and a Triton kernel compile here, and compute what eager torch computes",
        timeout=300,
        needs="gpu",
    ),
    Check(
        id="nccl",
        reason="collectives between all GPUs over NCCL, every element exact, at the bandwidth of their links",
        timeout=300,
        needs="gpus",
        beside="none",
        group="ranks",
    ),
    Check(
        id="peer-copy",
        reason="what one GPU copies into another's memory arrives, between every pair and both ways",
        timeout=180,
        needs="gpus",
        beside="cpu",
        group="ranks",
    ),
    Check(
        id="ddp",
        reason="gradients under DistributedDataParallel are those of one process with all the data",
        timeout=180,
        needs="gpus",
        beside="cpu",
        group="ranks",
    ),
    Check(
        id="zero3-fused-adam",
        reason="ZeRO-3 steps with the compiled FusedAdam agree with torch's AdamW",
        timeout=420,
        needs="gpu",
        beside="cpu",
        operator=True,
        group="ranks",
    ),
    Check(
        id="zero-stages",
        reason="ZeRO-1 and ZeRO-2 steps with the compiled FusedAdam agree with torch's AdamW",
        timeout=300,
        needs="gpu",
        beside="cpu",
        operator=True,
        group="ranks",
    ),
    Check(
        id="zero-checkpoint",
        reason="a ZeRO-3 checkpoint, merged by its own zero_to_fp32.py, holds the exact weights",
        timeout=300,
        needs="gpu",
        beside="cpu",
        operator=True,
        group="ranks",
    ),
    Check(
        id="cpp-extension",
        reason="C++ extensions compile here at first use: DeepSpeed's CPU optimizer, which agrees with torch's AdamW",
        timeout=900,
        beside="cpu",
        operator=True,
        group="ranks",
    ),
    Check(
        id="zero-offload",
        reason="ZeRO-3 with optimizer and parameters offloaded to the CPU agrees with torch's AdamW",
        timeout=420,
        needs="gpu",
        beside="cpu",
        operator=True,
        group="ranks",
    ),
)


def applicable(expectations: Expectations) -> tuple[Check, ...]:
    """The checks that a pass must have: all; without the operator's where the recipe compiles none; without those
    between GPUs where one GPU is enough for a pass."""
    return tuple(
        check
        for check in CHECKS
        if (expectations.operator is not None or not check.operator)
        and (expectations.gpus_wanted >= 2 or check.needs != "gpus")
    )


def find(name: str) -> Check:
    """The check of that id.

    Raises:
        KeyError: there is none.
    """
    for check in CHECKS:
        if check.id == name:
            return check
    raise KeyError(name)
