"""Further copies of CUDA's libraries on the disk: where a program could find one instead of the pinned one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .installed import by_name, files_of
from .model import Expectations

FAMILY = re.compile(r"lib(cudart|cublas|cublasLt|cudnn|cudnn_[a-z0-9_]+|nccl)(-[0-9a-f]{8})?\.so(\.\d+)*")
"""The libraries with a pin, also as auditwheel renames copies. Static archives and stubs are no copies to load."""

CONFIGURATION = Path("/etc/ld.so.conf")
ROOT = Path("/")
"""What an image is searched from."""

TOOLKIT = Path("/usr/local/cuda")
"""Where CUDA_HOME is when no variable says so (as torch.utils.cpp_extension looks for it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """What is on the disk beside the pinned files: ``toolkit`` under CUDA_HOME, ``stray`` elsewhere; ``loadable``
    are those of both in folders that the loader searches for every program."""

    toolkit: tuple[Path, ...]
    stray: tuple[Path, ...]
    loadable: tuple[Path, ...]


def find_copies(
    expectations: Expectations, roots: Iterable[Path], environ: Mapping[str, str], *, configuration: Path
) -> Copies:
    """Look for copies below ``roots`` and in the loader's folders.

    Args:
        expectations: whose pinned packages' files are no copies.
        roots: folders that are searched with all below them, each on its own file system only.
        environ: for LD_LIBRARY_PATH and CUDA_HOME.
        configuration: ``/etc/ld.so.conf``.
    """
    installed = by_name()
    pinned = {
        path.resolve()
        for library in expectations.libraries
        for path in (files_of(installed[library.package][0]) if library.package in installed else {}).values()
    }
    folders = loader_folders(environ, configuration)
    inside = {folder.resolve() for folder in folders}
    home = Path(environ.get("CUDA_HOME") or environ.get("CUDA_PATH") or TOOLKIT).resolve()
    found = {path.resolve() for root in roots for path in _below(root)}
    found |= {path.resolve() for folder in folders for path in _in(folder)}
    others = sorted(found - pinned)
    return Copies(
        toolkit=tuple(path for path in others if path.is_relative_to(home)),
        stray=tuple(path for path in others if not path.is_relative_to(home)),
        loadable=tuple(path for path in others if path.parent in inside),
    )


def loader_folders(environ: Mapping[str, str], configuration: Path = CONFIGURATION) -> list[Path]:
    """The folders of LD_LIBRARY_PATH and of ld.so.conf with what it includes (ldconfig(8))."""
    named = [Path(name) for name in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if name]
    return [*named, *_configured(configuration, frozenset())]


def _configured(file: Path, above: frozenset[Path]) -> list[Path]:
    file = file.resolve()
    if file in above:
        return []
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        words = line.partition("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                for name in sorted(Path("/").glob(str(file.parent / pattern).lstrip("/"))):
                    folders += _configured(name, above | {file})
        elif words and words[0] != "hwcap":
            folders += [Path(word) for word in re.split(r"[\s:,]+", " ".join(words)) if word]
    return folders


def _in(folder: Path) -> Iterator[Path]:
    try:
        found = list(folder.iterdir())
    except OSError:
        return
    yield from (path for path in found if FAMILY.fullmatch(path.name))


def _below(root: Path) -> Iterator[Path]:
    """The libraries below a folder, on its file system: not in /proc, nor in what the engine mounts."""
    device = root.stat().st_dev
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if _on(device, os.path.join(folder, name))]  # noqa: PTH118 -- 10^5 times
        yield from (Path(folder, name) for name in names if FAMILY.fullmatch(name))


def _on(device: int, folder: str) -> bool:
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return found.st_dev == device
