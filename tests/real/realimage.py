"""What the tests of the real images share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REF = "pytorch-cuda:v2.7"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Real:
    """A store with the built image of ``ref``, what ``image --json`` printed, and a way to call envbuild on it."""

    ref: str
    store: Path
    answer: dict[str, Any]
    envbuild: Callable[..., subprocess.CompletedProcess[str]]


def locked_digest(ref: str) -> str:
    """The image's digest in the committed lock."""
    lock = json.loads((ROOT / "recipes" / ref.replace(":", "/") / "lock.json").read_text())
    return str(lock["image"]["digest"])
