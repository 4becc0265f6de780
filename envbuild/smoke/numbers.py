"""Numbers for the report, whose JSON has no NaN and no infinity."""

from __future__ import annotations

import math


def finite(value: object) -> object:
    """``value`` with each float that JSON lacks as its text (``"nan"``), in dicts and lists too."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
