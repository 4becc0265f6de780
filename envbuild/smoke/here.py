"""Expectations of the environment that runs: ``--here``. Such a report says that a machine is healthy, no more."""

from __future__ import annotations

import re
from importlib.metadata import Distribution
from pathlib import Path

from .cuda import DRIVER_FLOOR, LIBRARY_PACKAGES, version_of
from .installed import by_name, files_of
from .model import BadExpectations, Expectations, Library, Operator
from .operators import architectures_in

WANTED = 2
"""GPUs that a pass needs unless ``--gpus`` says otherwise: what recipes ask for by default."""


def expect_here() -> Expectations:
    """Expect exactly what is installed, and of the operator what its file holds.

    Raises:
        BadExpectations: torch is not installed, or one of its CUDA libraries comes from no package.
    """
    installed = {name: found[0] for name, found in by_name().items()}
    if "torch" not in installed:
        raise BadExpectations("torch is not installed in this Python")
    cuda = _torch_cuda(installed["torch"])
    libraries = tuple(_libraries(installed, cuda)) if cuda else ()
    modules = [name for name in ("torch", "torchvision", "triton", "deepspeed") if name in installed]
    operator = _operator(installed)
    hashed = {"torch", *(library.package for library in libraries)}
    hashed |= {name for name in installed if name.startswith("nvidia-") and installed[name].files}
    if operator is not None:
        hashed.add("deepspeed")
    return Expectations(
        ref=None,
        complete=False,
        declared={},
        packages={name: str(found.version) for name, found in installed.items()},
        hashed=tuple(sorted(hashed)),
        imports=tuple(modules),
        cuda=cuda,
        libraries=libraries,
        operator=operator,
        driver_floor=DRIVER_FLOOR.get(cuda.split(".")[0]) if cuda else None,
        gpus_wanted=WANTED,
        gpus_given=None,
    )


def _torch_cuda(torch: Distribution) -> str | None:
    """``12.6`` as torch/version.py has it; ``None`` for a CPU build. The file is read, not imported."""
    path = files_of(torch).get("torch/version.py")
    text = path.read_text() if path is not None else ""
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else None


def _libraries(installed: dict[str, Distribution], cuda: str) -> list[Library]:
    major = cuda.split(".", maxsplit=1)[0]
    found = []
    for stem, names in LIBRARY_PACKAGES.items():
        candidates = [name.format(major=major) for name in names]
        package = next((name for name in candidates if name in installed), None)
        if package is None:
            raise BadExpectations(
                f"{stem} comes from no installed package (looked for {', '.join(candidates)})"
            )
        found.append(Library(stem=stem, package=package, version=version_of(installed[package].version)))
    return found


def _operator(installed: dict[str, Distribution]) -> Operator | None:
    deepspeed = installed.get("deepspeed")
    if deepspeed is None:
        return None
    for name, path in files_of(deepspeed).items():
        if re.fullmatch(r"deepspeed/ops/adam/fused_adam_op\.[^/]*so", name) and Path(path).exists():
            return Operator(
                name="fused_adam",
                module="deepspeed.ops.adam.fused_adam_op",
                file=name,
                architectures=architectures_in(path, installed),
            )
    return None
