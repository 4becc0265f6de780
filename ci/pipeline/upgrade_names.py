"""Print the options that let everything in a recipe's lock move that nothing pins, one a line: --upgrade=NAME.

    python3 upgrade_names.py image|conda FOLDER [PARENT-FOLDER]

What the recipe pins by a version moves by hand only; what a recipe takes from the one that it extends moves there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PINNED = {
    "image": {"torch", "torchvision", "deepspeed"},
    "conda": {
        "python", "pytorch", "pytorch-gpu", "libtorch", "torchvision", "cuda-version", "cudnn", "nccl", "deepspeed",
    },
}  # fmt: skip


def names(kind: str, folder: Path) -> set[str]:
    """What the lock in ``folder`` holds and may be told to move; ``debian`` stands for all Debian packages."""
    file = folder / ("lock.json" if kind == "image" else "conda.lock.json")
    lock: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if kind == "conda":
        return {item["name"] for item in (*lock["packages"], *lock["pip"])} - PINNED[kind]
    build = lock["native"]["build"] if lock["native"] else []
    return {"debian", *(item["name"] for item in (*lock["python"], *build))} - PINNED[kind]


def main(kind: str, folder: str, parent: str | None = None) -> None:
    """Print them in the order of the alphabet."""
    found = names(kind, Path(folder)) - (names(kind, Path(parent)) if parent else set())
    print(*(f"--upgrade={name}" for name in sorted(found)), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
