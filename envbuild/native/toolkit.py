"""The CUDA toolkit of a ``-devel`` image: the compiler that envbuild itself uses, more headers, and links to libraries.

No library is copied: ``lib64`` links to the files of torch's own wheels, so that what is compiled later is linked
with what torch loads.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact, Lock
from envbuild.native.toolchain import PROFILE, Piece, lay_out, pieces_for
from envbuild.oci import digest as digests

REVISION = 1
"""Part of the layer's key: a change in how the toolkit is laid out needs a new one."""

HOME = "usr/local/cuda"
"""CUDA_HOME in the image, below ``/``."""

_CUDA_12 = {
    "nvidia-cuda-cupti-cu12": "nvidia/cuda_cupti/include/",
    "nvidia-cuda-nvrtc-cu12": "nvidia/cuda_nvrtc/include/",
    "nvidia-cudnn-cu12": "nvidia/cudnn/include/",
    "nvidia-cufft-cu12": "nvidia/cufft/include/",
    "nvidia-cufile-cu12": "nvidia/cufile/include/",
    "nvidia-curand-cu12": "nvidia/curand/include/",
    "nvidia-nccl-cu12": "nvidia/nccl/include/",
    "nvidia-nvjitlink-cu12": "nvidia/nvjitlink/include/",
    "nvidia-nvtx-cu12": "nvidia/nvtx/include/",
}
_CUDA_13 = {
    **dict.fromkeys(
        (
            "nvidia-cuda-cupti",
            "nvidia-cuda-nvrtc",
            "nvidia-cufft",
            "nvidia-cufile",
            "nvidia-curand",
            "nvidia-nvjitlink",
            "nvidia-nvtx",
        ),
        "nvidia/cu13/include/",
    ),
    "nvidia-cudnn-cu13": "nvidia/cudnn/include/",
    "nvidia-nccl-cu13": "nvidia/nccl/include/",
}
_LIBRARY = re.compile(r"(?:.*/)?lib/(?:(?P<link>lib[^/]+\.so)\.[0-9.]+|lib[^/]+\.a)")

LINK_FLAGS = f"-cudart=shared -cudadevrt=none -Xlinker -rpath=/{HOME}/lib64"
"""For ``NVCC_PREPEND_FLAGS``: what nvcc itself links uses the one CUDA runtime that torch loads, and finds it.

CUDA 12's wheels have no static runtime, which nvcc takes by default; options on nvcc's command line come later and win.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolkit:
    """What the toolkit is made of: files by artifact, and the wheels whose libraries ``lib64`` links to, by name."""

    pieces: tuple[Piece, ...]
    artifacts: Mapping[str, Artifact]
    linked: tuple[str, ...]

    def key(self, gzip: str) -> str:
        """64 hex digits that name the layer; ``gzip`` stands for the program that compresses it."""
        value = {
            "revision": REVISION,
            "profile": PROFILE,
            "pieces": [[p.artifact, p.source, p.target, p.program] for p in self.pieces],
            "linked": list(self.linked),
            "inputs": sorted([a.name, a.sha256] for a in self.artifacts.values()),
            "gzip": gzip,
        }
        return digests.of_bytes(digests.canonical_json(value)).removeprefix("sha256:")


def toolkit_of(lock: Lock) -> Toolkit:
    """Choose the toolkit's inputs from a lock.

    Raises:
        EnvbuildError: exit 3; the lock lacks the compiler or one of torch's libraries.
    """
    major = int(cast("Mapping[str, str]", lock.recipe.get("cuda", {})).get("version", "0").split(".")[0])
    native = lock.native.toolchain if lock.native else ()
    image = {item.name: item for item in lock.python}
    known = {**image, **{item.name: item for item in native}}
    compiler = [piece for piece in pieces_for(major) if not piece.target.startswith("lib64/")]
    further = {12: _CUDA_12, 13: _CUDA_13}[major]
    headers = [
        Piece(artifact=name, source=source, target="include/")
        for name, source in further.items()
        if name in image
    ]
    pieces = (*compiler, *headers)
    names = list(dict.fromkeys(piece.artifact for piece in pieces))
    for name in names:
        if name not in known:
            raise EnvbuildError(
                "lock-without-toolchain", f"the lock of {lock.ref} has no {name}, which the part devel needs",
                hint=f"run `envbuild lock {lock.ref}`", exit=Exit.INPUT, where="$.native.toolchain",
            )  # fmt: skip
    linked = tuple(sorted(name for name in names if name in image))
    return Toolkit(pieces=pieces, artifacts={name: known[name] for name in names}, linked=linked)


def lay_out_toolkit(toolkit: Toolkit, files: Mapping[str, Path], root: Path, *, site: str) -> None:
    """Write the toolkit below ``root``, at the place that it has in the image.

    Args:
        toolkit: what to write.
        files: the artifacts' files, by name.
        root: an empty folder.
        site: the image's site-packages, below ``/``.

    Raises:
        EnvbuildError: exit 5; an artifact lacks a piece, or two bring different files for one place.
    """
    home = root / HOME
    lay_out(toolkit.pieces, {n: (a, files[n]) for n, a in toolkit.artifacts.items()}, home)
    libraries = home / "lib64"
    libraries.mkdir()
    for name in toolkit.linked:
        for link, target in library_links(files[name]):
            (libraries / link).symlink_to(target if "/" not in target else f"/{site}/{target}")
    for folder in (root, *root.rglob("*")):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o755)


def library_links(wheel: Path) -> Sequence[tuple[str, str]]:
    """Links for a wheel's libraries: the file's name to its place in site-packages, and what ``-l`` looks for to it."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            match = _LIBRARY.fullmatch(name)
            if match:
                file = name.rpartition("/")[2]
                found += [(file, name), *([(match["link"], file)] if match["link"] else [])]
    return found
