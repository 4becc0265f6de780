"""The compiled operator's file: what machine code it holds."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution
from pathlib import Path

from .elf import NotElf, read_elf
from .installed import by_name, files_of
from .model import Failure

CUOBJDUMP = "triton/backends/nvidia/bin/cuobjdump"
"""Triton's wheel ships NVIDIA's lister of device code."""


def needs_runtime(path: Path) -> bool:
    """Whether the object is linked against CUDA's runtime: the CPU operator of the same name is not.

    Raises:
        NotElf: it is no shared object.
    """
    return any(name.startswith("libcudart.so") for name in read_elf(path).needed)


def cuobjdump(installed: Mapping[str, Distribution] | None = None) -> Path | None:
    """Triton's cuobjdump, or ``None`` where triton does not ship it."""
    found = installed if installed is not None else {name: many[0] for name, many in by_name().items()}
    triton = found.get("triton")
    path = files_of(triton).get(CUOBJDUMP) if triton is not None else None
    return path if path is not None and path.exists() else None


def list_code(program: Path, path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The architectures of the machine code and of the PTX in an object, as ``8.0``.

    Raises:
        Failure: cuobjdump does not run.
    """
    return _list(program, "--list-elf", path), _list(program, "--list-ptx", path)


def _list(program: Path, option: str, path: Path) -> frozenset[str]:
    try:
        done = subprocess.run(
            [str(program), option, str(path)], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        raise Failure(
            expected=f"{program} to run",
            seen=str(error),
            hint="the file system is mounted noexec, or the file has lost its mode: see the check versions"
            if isinstance(error, PermissionError)
            else "the file is missing or not a program for this machine: see the check versions",
        ) from error
    return architectures_listed(done.stdout)


def architectures_listed(text: str) -> frozenset[str]:
    """The architectures that cuobjdump lists: lines like ``ELF file    1: x.sm_80.cubin``.

    It has no status for "no device code": it then prints no such line, and so this is the empty set.
    """
    found = re.findall(
        r"^(?:ELF|PTX) file\s+\d+:\s.*\bsm_(\d+)(\d)[af]?\.(?:cubin|ptx)\s*$", text, re.MULTILINE
    )
    return frozenset(f"{major}.{minor}" for major, minor in found)


def wanted_code(architectures: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Machine code and PTX that a list such as ``8.0``, ``9.0+PTX`` asks for."""
    listed = list(architectures)
    plain = frozenset(text.removesuffix("+PTX") for text in listed)
    return plain, frozenset(text.removesuffix("+PTX") for text in listed if text.endswith("+PTX"))


def architectures_in(path: Path, installed: Mapping[str, Distribution]) -> tuple[str, ...]:
    """What an operator's file holds, in TORCH_CUDA_ARCH_LIST's words; empty for a CPU object."""
    program = cuobjdump(installed)
    if program is None:
        return ()
    try:
        if not needs_runtime(path):
            return ()
    except NotElf:
        return ()
    code, ptx = list_code(program, path)
    return tuple(f"{text}+PTX" if text in ptx else text for text in sorted(code | ptx, key=float))


def runs_on(capability: tuple[int, int], code: Iterable[str], ptx: Iterable[str]) -> str | None:
    """How code reaches a GPU: ``"machine code"``, ``"PTX"``, or ``None``.

    Machine code runs on the same major version with the same or a higher minor one; PTX on the same or any later
    version (CUDA C++ programming guide, "Binary compatibility", "PTX compatibility").
    """

    def version(text: str) -> tuple[int, int]:
        major, minor = text.split(".")
        return int(major), int(minor)

    if any(have[0] == capability[0] and have[1] <= capability[1] for have in map(version, code)):
        return "machine code"
    return "PTX" if any(version(text) <= capability for text in ptx) else None
