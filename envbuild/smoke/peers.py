"""Copies from one device's memory to another's, compared element by element."""

from __future__ import annotations

from typing import Any

from .collective import compare, fill, pattern

LENGTHS = (1, 65_537, 1 << 24)
"""64-bit integers a copy: one, an odd number, and 128 MiB."""


def copied(source: str, target: str, *, count: int, salt: int) -> dict[str, Any] | None:
    """Copy a pattern of ``count`` integers from one device to the other and compare it there.

    Args:
        source: torch's name of the device that has it.
        target: that which gets it; the pattern is made there anew to be compared.
        count: how many.
        salt: makes the pattern of every pair and direction another.

    Returns:
        ``None`` if all of it arrived, else the first wrong element.
    """
    import torch

    sent = torch.empty(count, dtype=torch.int64, device=source)
    fill(sent, rank=salt, world=2)
    got = torch.full((count,), -1, dtype=torch.int64, device=target)
    got.copy_(sent)

    def wanted(start: int, length: int) -> Any:
        return pattern(start=start, count=length, rank=salt, world=2, device=target)

    return compare(got, wanted)
