"""Where ranks run: on which devices, in which environment, and in which process group."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .context import Context
from .model import Failure

COMPILERS = frozenset({"nvcc", "ninja", "ninja-build"})

TIMEOUT = 120
"""Seconds after which a collective gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The devices of a check's ranks. The suite's own is :func:`gpus_of`; the tests have one without GPUs."""

    device: str
    backend: str
    world: int

    def options(self) -> dict[str, Any]:
        """What :func:`joined` reads in a rank."""
        return {"device": self.device, "backend": self.backend}


def gpus_of(context: Context) -> Place:
    """Every GPU of this container, one rank each, over NCCL."""
    return Place(device="cuda", backend="nccl", world=context.gpus)


def surroundings(context: Context, place: Place) -> dict[str, str]:
    """The environment of the ranks of every check that shares them: nothing to compile with, and NCCL logs to a file.

    What the caller set stays, but for the logging, which tells the transport. On CPUs compilers stay too, since
    DeepSpeed compiles its exchange between them at first use.
    """
    if place.device == "cpu":
        return {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environ = barred(os.environ, context.shared, extensions(context))
    environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(context.shared / "nccl.%p")}
    environ.pop("NCCL_DEBUG_SUBSYS", None)
    return environ


def extensions(context: Context) -> Path:
    """The folder where a just-in-time build of the ranks would appear: made here, and it must stay empty."""
    folder = context.shared / "extensions"
    folder.mkdir(exist_ok=True)
    return folder


def built(folder: Path) -> list[str]:
    """What was put into the folder for extensions."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def barred(environ: Mapping[str, str], scratch: Path, extensions: Path) -> dict[str, str]:
    """The caller's environment without the means to compile: no nvcc, no ninja, no CUDA_HOME, a fresh folder.

    A folder of PATH that holds a compiler is replaced by one with links to everything else in it. The same scratch
    folder gives the same environment again.
    """
    path = []
    for number, name in enumerate(environ.get("PATH", os.defpath).split(os.pathsep)):
        folder = Path(name or ".")
        if not any((folder / compiler).exists() for compiler in COMPILERS):
            path.append(name)
            continue
        instead = scratch / f"path{number}"
        if not instead.exists():
            instead.mkdir()
            for program in folder.iterdir():
                if program.name not in COMPILERS:
                    (instead / program.name).symlink_to(program)
        path.append(str(instead))
    kept = {name: value for name, value in environ.items() if name not in ("DS_ACCELERATOR", "CUDACXX")}
    nowhere = str(scratch / "no-cuda")
    return {
        **kept,
        "PATH": os.pathsep.join(path),
        "CUDA_HOME": nowhere,
        "CUDA_PATH": nowhere,
        "TORCH_EXTENSIONS_DIR": str(extensions),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
    }


def joined(context: Context) -> str:
    """Join this rank's process group, unless an earlier check of the same ranks did, and return its device.

    Raises:
        Failure: torch sees no GPU for this rank.
    """
    import torch
    import torch.distributed as dist

    if context.options["device"] == "cpu":
        device = "cpu"
    else:
        if context.rank >= torch.cuda.device_count():
            raise Failure(
                expected=f"{context.world} GPU(s)",
                seen=f"torch sees {torch.cuda.device_count()}",
                hint="see the check cuda-available",
            )
        device = f"cuda:{context.rank}"
        torch.cuda.set_device(context.rank)
        torch.cuda.empty_cache()
    torch.backends.cuda.matmul.allow_tf32 = False
    if not dist.is_initialized():
        dist.init_process_group(
            str(context.options["backend"]),
            init_method=f"file://{context.options['rendezvous']}",
            rank=context.rank,
            world_size=context.world,
            timeout=datetime.timedelta(seconds=TIMEOUT),
            device_id=None if device == "cpu" else torch.device(device),
        )
    return device
