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
_PROGRAMS = {"jupyter": "jupyter", "ssh": "sshd"}


def programs(parts: Sequence[str], facts: Mapping[str, object] | None = None) -> tuple[FileEntry, ...]:
    """The files of the programs' layer.

    Args:
        parts: the recipe's parts; every image has envbuild-doctor, ``jupyter`` adds envbuild-jupyter, ``ssh``
            envbuild-sshd and pdsh's choice of ssh. Others add nothing.
        facts: what ``/etc/envbuild/image.json`` says of the image, as `image_facts` gives it.
    """
    described = json.dumps({"format": 1, **(facts or {})}, indent=2, sort_keys=True) + "\n"
    files = [
        FileEntry(path="etc/envbuild/image.json", content=described.encode()),
        FileEntry(path="etc/profile.d/envbuild.sh", content=(INSIDE / "profile.sh").read_bytes()),
        *_program("doctor"),
    ]
    for part in sorted(set(parts) & set(_PROGRAMS)):
        files += _program(_PROGRAMS[part])
    if "ssh" in parts:
        files.append(FileEntry(path="etc/pdsh/rcmd_default", content=b"ssh\n"))
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


def _program(name: str) -> list[FileEntry]:
    """``/usr/local/bin/envbuild-NAME`` and the modules that it starts."""
    program = FileEntry(
        path=f"usr/local/bin/envbuild-{name}",
        content=(INSIDE / "bin" / f"envbuild-{name}").read_bytes(),
        mode=0o755,
    )
    modules = [
        FileEntry(path=f"usr/local/lib/envbuild/{name}/{source.name}", content=source.read_bytes())
        for source in sorted((INSIDE / name).glob("*.*"))
        if source.suffix in (".py", ".json")
    ]
    return [*modules, program]
