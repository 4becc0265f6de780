"""Programs of envbuild's own that lie in an image, by its recipe's parts. A pure function of its arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from envbuild.layers.files import FileEntry
from envbuild.lock.model import Lock

INSIDE = Path(__file__).parent / "inside"
_PORTS = {"jupyter": (8888,), "ssh": (22,)}


def programs(parts: Sequence[str], facts: Mapping[str, object] | None = None) -> tuple[FileEntry, ...]:
    """The files of the programs' layer.

    Args:
        parts: the recipe's parts; every image has envbuild-doctor, ``jupyter`` adds envbuild-jupyter, ``ssh``
            envbuild-sshd. Others add nothing.
        facts: what ``/etc/envbuild/image.json`` says of the image, as `image_facts` gives it.
    """
    described = json.dumps({"format": 1, **(facts or {})}, indent=2, sort_keys=True) + "\n"
    files = [
        FileEntry(path="etc/envbuild/image.json", content=described.encode()),
        FileEntry(path="etc/profile.d/envbuild.sh", content=(INSIDE / "profile.sh").read_bytes()),
        *(
            FileEntry(path=f"usr/local/lib/envbuild/doctor/{source.name}", content=source.read_bytes())
            for source in sorted((INSIDE / "doctor").glob("*.py"))
        ),
        _program("envbuild-doctor"),
    ]
    return tuple(files)


def ports(parts: Sequence[str]) -> tuple[int, ...]:
    """The TCP ports that the programs of these parts listen on by default, in number order."""
    return tuple(sorted(port for part in parts for port in _PORTS.get(part, ())))


def image_facts(lock: Lock) -> dict[str, object]:
    """What the programs in the image must know of it: its name, the CUDA pair, the operator's architectures."""
    cuda = cast("Mapping[str, object]", lock.recipe.get("cuda") or {})
    torch = cast("Mapping[str, object]", lock.recipe.get("torch") or {})
    deepspeed = cast("Mapping[str, object]", lock.recipe.get("deepspeed") or {})
    return {
        "ref": str(lock.ref),
        "torch": torch.get("version"),
        "cuda": cuda.get("version"),
        "cudnn": cuda.get("cudnn"),
        "nccl": cuda.get("nccl"),
        "deepspeed": deepspeed.get("version"),
        "architectures": deepspeed.get("architectures", []),
    }


def _program(name: str) -> FileEntry:
    return FileEntry(path=f"usr/local/bin/{name}", content=(INSIDE / "bin" / name).read_bytes(), mode=0o755)
