"""``loaded``: what a process that uses torch really maps, not what is declared or installed."""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..context import Context
from ..cuda import agrees, decode_library, decode_runtime
from ..installed import by_name, files_of
from ..model import Expectations, Failure

FAMILY = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn|cudnn_[a-z0-9_]+|nccl|cufft|cufftw|curand|cusolver|cusolverMg|cusparse"
    r"|cusparseLt|nvrtc|nvrtc-builtins|nvJitLink|cupti|cufile|nvshmem_host|nvToolsExt)\.so(\.|$)"
)
"""File names of CUDA's user-space libraries. The driver's own (libcuda, libnvidia-*) come from the host."""

MAPS = Path("/proc/self/maps")


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
    if expectations.operator is not None:
        importlib.import_module(expectations.operator.module)
    if context.gpus:
        touch(torch)
    mapped = mapped_libraries(MAPS.read_text())
    numbers: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    numbers["libraries"] = {
        library.stem: compare(library.stem, library.package, library.version, mapped)
        for library in expectations.libraries
    }
    _once(mapped, expectations)
    _torch_agrees(torch, numbers["libraries"])
    numbers["mapped"] = {stem: [str(path) for path in paths] for stem, paths in sorted(mapped.items())}
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


def mapped_libraries(maps: str) -> dict[str, list[Path]]:
    """CUDA's libraries in the text of ``/proc/self/maps`` (proc(5)): stem to the files mapped under it."""
    found: dict[str, list[Path]] = {}
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 6 or not fields[5].startswith("/"):
            continue
        path = Path(fields[5])
        matched = FAMILY.match(path.name)
        if matched:
            paths = found.setdefault(f"lib{matched.group(1)}", [])
            if path not in paths:
                paths.append(path)
    return found


def compare(stem: str, package: str, version: str, mapped: dict[str, list[Path]]) -> dict[str, str]:
    """One pinned library: one copy, from its package, and its own word for its version.

    Raises:
        Failure: none or several are mapped, from elsewhere, or in another version.
    """
    paths = mapped.get(stem, [])
    if len(paths) != 1:
        raise Failure(
            expected=f"one copy of {stem}, from {package} {version}",
            seen="\n".join(map(str, paths)) or f"{stem} is not mapped",
            hint="look for a second CUDA in LD_LIBRARY_PATH, LD_PRELOAD, ld.so.conf and site-packages"
            if paths
            else "torch did not load it: is this a CUDA build of torch?",
        )
    _from_package(stem, paths[0], package)
    seen = VERSIONS[stem](paths[0])
    if not agrees(version, seen):
        raise Failure(
            expected=f"{stem} {version} ({package})",
            seen=f"{stem} {seen} from {paths[0]}",
            hint="the file is not the one that the package brought: rebuild the image",
        )
    return {"version": seen, "pinned": version, "file": str(paths[0])}


def _from_package(stem: str, path: Path, package: str) -> None:
    distribution = by_name().get(package, [None])[0]
    files = [] if distribution is None else [file.resolve() for file in files_of(distribution).values()]
    if path.resolve() not in files:
        raise Failure(
            expected=f"{stem} from the files of {package}",
            seen=str(path),
            hint="another copy is found first: look at LD_LIBRARY_PATH, LD_PRELOAD and ld.so.conf",
        )


def _once(mapped: dict[str, list[Path]], expectations: Expectations) -> None:
    """The libraries without a pin of their own: each once, and from the same site-packages."""
    twice = [path for paths in mapped.values() if len(paths) > 1 for path in paths]
    root = by_name()["torch"][0].locate_file("")
    stray = [
        path
        for paths in mapped.values()
        for path in paths
        if not path.is_relative_to(Path(str(root)).resolve())
    ]
    if twice or (stray and expectations.complete):
        raise Failure(
            expected=f"one copy of each CUDA library, below {root}",
            seen="\n".join(str(path) for path in twice or stray),
            hint="look for a second CUDA in LD_LIBRARY_PATH, LD_PRELOAD and ld.so.conf",
        )


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
