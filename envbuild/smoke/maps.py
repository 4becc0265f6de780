"""Which copies of CUDA's libraries a process has mapped, and whether they are the pinned ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .installed import by_name, files_of
from .model import Expectations, Failure

FAMILY = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn|cudnn_[a-z0-9_]+|nccl|cufft|cufftw|curand|cusolver|cusolverMg|cusparse"
    r"|cusparseLt|nvrtc|nvrtc-builtins|nvJitLink|cupti|cufile|nvshmem_host|nvToolsExt)(-[0-9a-f]{8})?\.so(\.|$)"
)
"""File names of CUDA's user-space libraries, also as auditwheel renames them when it puts a copy into a wheel. The
driver's own (libcuda, libnvidia-*) come from the host."""

MAPS = Path("/proc/self/maps")

SECOND = "look for a second CUDA in LD_LIBRARY_PATH, LD_PRELOAD, ld.so.conf and site-packages"


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


def judge_copies(
    mapped: Mapping[str, list[Path]],
    expectations: Expectations,
    numbers: Mapping[str, object] | None = None,
) -> None:
    """Each pinned library must be mapped once, from a file of its package; every other one at most once.

    Raises:
        Failure: none or several are mapped, or one from elsewhere.
    """
    for library in expectations.libraries:
        paths = mapped.get(library.stem, [])
        if len(paths) != 1:
            raise Failure(
                expected=f"one copy of {library.stem}, from {library.package} {library.version}",
                seen="\n".join(map(str, paths)) or f"{library.stem} is not mapped",
                hint=SECOND if paths else "torch did not load it: is this a CUDA build of torch?",
                numbers=numbers,
            )
        if not _from_package(paths[0], library.package):
            raise Failure(
                expected=f"{library.stem} from the files of {library.package}",
                seen=str(paths[0]),
                hint="another copy is found first: look at LD_LIBRARY_PATH, LD_PRELOAD and ld.so.conf",
                numbers=numbers,
            )
    twice, stray, root = _others(mapped)
    if twice or (stray and expectations.complete):
        raise Failure(
            expected=f"one copy of each CUDA library, below {root or 'site-packages'}",
            seen="\n".join(str(path) for path in twice or stray),
            hint=SECOND,
            numbers=numbers,
        )


def judge_process(
    expectations: Expectations, numbers: Mapping[str, object] | None = None
) -> dict[str, list[Path]]:
    """Judge the process that calls, as it is now.

    Args:
        expectations: what is pinned.
        numbers: what was measured, for a failure to keep.

    Returns:
        What is mapped.

    Raises:
        Failure: as :func:`judge_copies`.
    """
    mapped = mapped_libraries(MAPS.read_text())
    judge_copies(mapped, expectations, numbers)
    return mapped


def _from_package(path: Path, package: str) -> bool:
    distribution = by_name().get(package, [None])[0]
    files = [] if distribution is None else [file.resolve() for file in files_of(distribution).values()]
    return path.resolve() in files


def _others(mapped: Mapping[str, list[Path]]) -> tuple[list[Path], list[Path], Path | None]:
    """All libraries: those mapped from several files, those outside of torch's site-packages, and that folder."""
    twice = [path for paths in mapped.values() if len(paths) > 1 for path in paths]
    torch = by_name().get("torch", [None])[0]
    root = None if torch is None else Path(str(torch.locate_file(""))).resolve()
    every = [path for paths in mapped.values() for path in paths]
    return twice, [path for path in every if root is None or not path.is_relative_to(root)], root
