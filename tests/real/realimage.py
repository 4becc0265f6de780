"""What the tests of the real image share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REF = "pytorch-cuda:v2.7"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Real:
    """A store with the built image, what ``image --json`` printed, and a way to call envbuild on it."""

    store: Path
    answer: dict[str, Any]
    envbuild: Callable[..., subprocess.CompletedProcess[str]]
