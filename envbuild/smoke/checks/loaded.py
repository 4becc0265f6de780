"""``loaded``: what a process that uses torch really maps, not what is declared or installed."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..context import Context
from ..copies import CONFIGURATION, ROOT, find_copies
from ..cuda import agrees, decode_library, decode_runtime, version_of
from ..installed import by_name
from ..maps import judge_process
from ..model import Expectations, Failure

MODULES = ("torch", "triton", "deepspeed")
"""Packages whose module says its version."""


def run(context: Context) -> dict[str, Any]:
    """Use torch as far as this machine allows, then look at the process and ask the libraries themselves."""
    expectations = context.expectations
    torch = importlib.import_module("torch")
    if expectations.cuda is None or torch.version.cuda != expectations.cuda:
        raise Failure(
            expected=f"torch built for CUDA {expectations.cuda or '(none was found: this torch is a CPU build)'}",
            seen=f"torch {torch.__version__}, built for CUDA {torch.version.cuda}",
            hint="install the CUDA build of torch; a CPU wheel has the same name",
        )
    said = {name: str(importlib.import_module(name).__version__) for name in _modules(expectations)}
    if expectations.operator is not None:
        importlib.import_module(expectations.operator.module)
    if context.gpus:
        touch(torch)
    mapped = judge_process(expectations)
    libraries = {
        library.stem: compare(library.stem, library.package, library.version, mapped[library.stem][0])
        for library in expectations.libraries
    }
    _torch_agrees(torch, libraries)
    pins = rows(expectations, {**said, **{stem: found["version"] for stem, found in libraries.items()}})
    numbers: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "pins": pins,
        "libraries": libraries,
        "mapped": {stem: [str(path) for path in paths] for stem, paths in sorted(mapped.items())},
    }
    judge_pins(pins, numbers)
    numbers["copies"] = _copies(context, torch, numbers)
    return numbers


def touch(torch: Any) -> None:
    """A matrix product and a convolution, so that cuBLAS and cuDNN load what they load late."""
    if not torch.cuda.is_available():
        return
    matrix = torch.ones(64, 64, device="cuda", dtype=torch.float16)
    image = torch.ones(1, 8, 32, 32, device="cuda", dtype=torch.float16)
    weight = torch.ones(8, 8, 3, 3, device="cuda", dtype=torch.float16)
    (matrix @ matrix).sum().item()
    torch.nn.functional.conv2d(image, weight).sum().item()


def compare(stem: str, package: str, version: str, path: Path) -> dict[str, str]:
    """One pinned library's own word for its version.

    Raises:
        Failure: it is another one.
    """
    seen = VERSIONS[stem](path)
    if not agrees(version, seen):
        raise Failure(
            expected=f"{stem} {version} ({package})",
            seen=f"{stem} {seen} from {path}",
            hint="the file is not the one that the package brought: rebuild the image",
        )
    return {"version": seen, "pinned": version, "file": str(path)}


def _modules(expectations: Expectations) -> list[str]:
    """torch, and what else is to be imported anyway."""
    return [name for name in MODULES if name == "torch" or name in expectations.imports]


def rows(expectations: Expectations, loaded: dict[str, str]) -> list[dict[str, str | None]]:
    """One row a pin: what the recipe declared, the lock resolved, is installed, and the process loaded."""
    packages = {library.stem: library.package for library in expectations.libraries}
    installed = by_name()
    found: list[dict[str, str | None]] = []
    for name, seen in loaded.items():
        package = packages.get(name, name)
        found.append(
            {
                "name": name,
                "package": package,
                "declared": expectations.declared.get(name),
                "resolved": expectations.packages.get(package),
                "installed": str(installed[package][0].version) if package in installed else None,
                "loaded": seen,
            }
        )
    return found


def judge_pins(pins: list[dict[str, str | None]], numbers: dict[str, Any]) -> None:
    """Declared = resolved = installed = loaded: each may say fewer numbers (``12.6`` of ``12.6.77``), none others.

    Raises:
        Failure: one differs.
    """
    wrong = []
    for pin in pins:
        said = {key: value for key in ("declared", "resolved", "installed", "loaded") if (value := pin[key])}
        longest = max((version_of(value) for value in said.values()), key=lambda text: text.count("."))
        if not all(agrees(longest, version_of(value)) for value in said.values()):
            wrong.append(f"{pin['name']}: " + ", ".join(f"{key} {value}" for key, value in said.items()))
    if wrong:
        raise Failure(
            expected="of each pin one version: declared, resolved, installed and loaded",
            seen="\n".join(wrong),
            hint="`envbuild lock REF` where recipe and lock differ; rebuild the image where the rest does",
            numbers=numbers,
        )


def _copies(context: Context, torch: Any, numbers: dict[str, Any]) -> dict[str, list[str]]:
    """Further copies on the disk: in an image only under CUDA_HOME, and where the loader does not look."""
    expectations = context.expectations
    roots = [ROOT] if expectations.complete else [Path(str(torch.__file__)).parents[1]]
    found = find_copies(expectations, roots, os.environ, configuration=CONFIGURATION)
    wrong = list(dict.fromkeys([*found.stray, *found.loadable]))
    if wrong and expectations.complete:
        raise Failure(
            expected="no copy of a pinned CUDA library but under CUDA_HOME, and that not in ld.so.conf or "
            "LD_LIBRARY_PATH",
            seen="\n".join(map(str, wrong)),
            hint="remove the packages that bring them; programs other than torch would load these",
            numbers=numbers,
        )
    if found.loadable:
        context.warn(
            f"other programs load {found.loadable[0]} (LD_LIBRARY_PATH or ld.so.conf); torch does not, here"
        )
    return {"toolkit": [str(path) for path in found.toolkit], "others": [str(path) for path in found.stray]}


def _torch_agrees(torch: Any, libraries: dict[str, dict[str, str]]) -> None:
    """What torch says it uses must be what the libraries said."""
    said = {
        "libcudnn": decode_library(int(torch.backends.cudnn.version() or 0)),
        "libnccl": ".".join(str(part) for part in torch.cuda.nccl.version()[:3]),
    }
    for stem, version in said.items():
        if stem in libraries and libraries[stem]["version"] != version:
            raise Failure(
                expected=f"torch to use {stem} {libraries[stem]['version']}",
                seen=f"torch says {version}",
                hint="torch carries a copy of its own: this is not the build that was pinned",
            )


def _runtime(path: Path) -> str:
    number = ctypes.c_int()
    ctypes.CDLL(str(path)).cudaRuntimeGetVersion(ctypes.byref(number))
    return decode_runtime(number.value)


def _cudnn(path: Path) -> str:
    function = ctypes.CDLL(str(path)).cudnnGetVersion
    function.restype = ctypes.c_size_t
    return decode_library(int(function()))


def _nccl(path: Path) -> str:
    number = ctypes.c_int()
    ctypes.CDLL(str(path)).ncclGetVersion(ctypes.byref(number))
    return decode_library(number.value)


def _cublas(path: Path) -> str:
    library = ctypes.CDLL(str(path))
    parts = []
    for which in range(3):
        number = ctypes.c_int()
        library.cublasGetProperty(which, ctypes.byref(number))
        parts.append(str(number.value))
    return ".".join(parts)


VERSIONS: dict[str, Callable[[Path], str]] = {
    "libcudart": _runtime,
    "libcudnn": _cudnn,
    "libnccl": _nccl,
    "libcublas": _cublas,
}
"""How each library is asked for its version, without a GPU."""
