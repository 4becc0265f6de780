"""Which check may start next: what does not disturb another runs beside it."""

from __future__ import annotations

from collections.abc import Sequence

from .checks import Check

MOST = 6
"""Checks at a time, however many processors there are: each may be several processes with a CUDA context of their own,
which is 1 to 2 GB of memory a process."""


def jobs_for(processors: int) -> int:
    """How many checks may run at a time: one for three processors, at least one, at most :data:`MOST`."""
    return max(1, min(MOST, processors // 3))


def following(pending: Sequence[Check], running: Sequence[Check], jobs: int) -> Check | None:
    """The one of ``pending`` that may start beside ``running``, or ``None``: wait until one of them ends.

    Checks that measure come when all others are done, one at a time, and those that are ``last`` after them. Before
    that the checks that fill GPUs, which wait for each other, go first where there is room for others beside them;
    else the order is that of ``pending``.
    """
    if len(running) >= jobs:
        return None
    stage = min((_stage(check) for check in [*pending, *running]), default=0)
    possible = [
        check
        for check in pending
        if _stage(check) == stage and all(_together(check, other) for other in running)
    ]
    fillers = [check for check in possible if check.beside == "cpu"] if jobs > 1 else []
    return next(iter(fillers or possible), None)


def _stage(check: Check) -> int:
    return {"any": 0, "cpu": 0, "none": 1, "last": 2}[check.beside]


def _together(one: Check, other: Check) -> bool:
    if _stage(one) or _stage(other):
        return False
    return not (one.beside == "cpu" and other.beside == "cpu")
