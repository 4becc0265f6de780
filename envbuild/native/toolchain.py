"""The CUDA compiler as a folder: which files of which artifacts make a CUDA_HOME, for CUDA 12 and CUDA 13.

CUDA 13's compiler comes as wheels. CUDA 12's does not (its wheel has no nvcc), so nvcc and its programs come from
one .deb and the rest from wheels. Runtime, cuBLAS, cuSPARSE and cuSOLVER headers are those that torch itself
pins. docs/explanation/operator.md says what is needed and why.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact
from envbuild.native.archives import MTIME, Member, members

PROFILE = """\
TOP = $(_HERE_)/..
CICC_PATH = $(TOP)/nvvm/bin
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(CICC_PATH):$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
SYSTEM_INCLUDES += "-isystem" "$(TOP)/include/cccl" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/lib64"
"""
"""``bin/nvcc.profile``: where nvcc finds the rest, relative to itself (``_HERE_``). Debian's has fixed paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Files of one artifact.

    ``source`` is a file in the artifact, or a folder (ending in ``/``) with all below it; ``target`` the place
    under CUDA_HOME, a folder for a folder. ``program``: gets mode 0755 instead of 0644.
    """

    artifact: str
    source: str
    target: str
    program: bool = False


def _programs(artifact: str, folder: str, names: Iterable[str]) -> tuple[Piece, ...]:
    return tuple(Piece(artifact=artifact, source=folder + n, target=f"bin/{n}", program=True) for n in names)


def _folders(pairs: Mapping[str, str], target: str) -> tuple[Piece, ...]:
    return tuple(Piece(artifact=name, source=source, target=target) for name, source in pairs.items())


_DEB = "nvidia-cuda-toolkit"
_DEB_LIB = "usr/lib/nvidia-cuda-toolkit"

CUDA_12: tuple[Piece, ...] = (
    *_programs(_DEB, f"{_DEB_LIB}/bin/", ("nvcc",)),
    *_programs(_DEB, "usr/bin/", ("cudafe++", "fatbinary", "nvlink", "ptxas")),
    Piece(artifact=_DEB, source=f"{_DEB_LIB}/bin/crt/", target="bin/crt/"),
    Piece(artifact=_DEB, source=f"{_DEB_LIB}/bin/cicc", target="nvvm/bin/cicc", program=True),
    Piece(artifact=_DEB, source=f"{_DEB_LIB}/libdevice/", target="nvvm/libdevice/"),
    *_folders(
        {
            "nvidia-cuda-nvcc-cu12": "nvidia/cuda_nvcc/include/",
            "nvidia-cuda-cccl-cu12": "nvidia/cuda_cccl/include/",
            "nvidia-cuda-runtime-cu12": "nvidia/cuda_runtime/include/",
            "nvidia-cublas-cu12": "nvidia/cublas/include/",
            "nvidia-cusparse-cu12": "nvidia/cusparse/include/",
            "nvidia-cusolver-cu12": "nvidia/cusolver/include/",
        },
        "include/",
    ),
    Piece(
        artifact="nvidia-cuda-runtime-cu12",
        source="nvidia/cuda_runtime/lib/libcudart.so.12",
        target="lib64/libcudart.so.12",
    ),
)

CUDA_13: tuple[Piece, ...] = (
    *_programs("nvidia-cuda-nvcc", "nvidia/cu13/bin/", ("nvcc", "cudafe++", "fatbinary", "nvlink", "ptxas")),
    Piece(artifact="nvidia-cuda-nvcc", source="nvidia/cu13/bin/crt/", target="bin/crt/"),
    Piece(artifact="nvidia-nvvm", source="nvidia/cu13/nvvm/bin/cicc", target="nvvm/bin/cicc", program=True),
    Piece(artifact="nvidia-nvvm", source="nvidia/cu13/nvvm/libdevice/", target="nvvm/libdevice/"),
    *_folders(
        dict.fromkeys(
            (
                "nvidia-cuda-nvcc",
                "nvidia-cuda-crt",
                "nvidia-cuda-cccl",
                "nvidia-cuda-runtime",
                "nvidia-cublas",
                "nvidia-cusparse",
                "nvidia-cusolver",
            ),
            "nvidia/cu13/include/",
        ),
        "include/",
    ),
    Piece(
        artifact="nvidia-cuda-runtime",
        source="nvidia/cu13/lib/libcudart.so.13",
        target="lib64/libcudart.so.13",
    ),
)


def pieces_for(cuda_major: int) -> tuple[Piece, ...]:
    """The layout for a CUDA major version.

    Raises:
        EnvbuildError: exit 3; there is none.
    """
    layouts = {12: CUDA_12, 13: CUDA_13}
    if cuda_major not in layouts:
        raise EnvbuildError(
            "no-cuda-toolchain",
            f"DeepSpeed's operators cannot be compiled for CUDA {cuda_major}",
            hint="pin CUDA 12 or 13 in [cuda] of the recipe, or remove [deepspeed]",
            exit=Exit.INPUT,
        )
    return layouts[cuda_major]


def lay_out(pieces: Sequence[Piece], artifacts: Mapping[str, tuple[Artifact, Path]], home: Path) -> None:
    """Write a CUDA_HOME.

    Args:
        pieces: the layout.
        artifacts: by name, each artifact that the layout names, and its verified file.
        home: a folder that does not exist yet.

    Raises:
        EnvbuildError: exit 5; an artifact lacks a piece, or two artifacts bring different files for one place.
    """
    written: dict[str, str] = {}
    for name in dict.fromkeys(piece.artifact for piece in pieces):
        artifact, path = artifacts[name]
        wanted = [piece for piece in pieces if piece.artifact == name]
        found: set[Piece] = set()
        for member in members(artifact, path):
            for piece in wanted:
                target = _target(piece, member.name)
                if target is not None:
                    found.add(piece)
                    _write(home, target, member, piece=piece, written=written, origin=name)
        for piece in wanted:
            if piece not in found:
                raise _lacks(artifact, piece)
    profile = home / "bin" / "nvcc.profile"
    profile.write_text(PROFILE)
    profile.chmod(0o644)  # whatever the caller's umask
    for library in sorted((home / "lib64").glob("libcudart.so.*")):
        (home / "lib64" / "libcudart.so").symlink_to(library.name)


def _target(piece: Piece, name: str) -> str | None:
    """Where a member goes under CUDA_HOME, if it belongs to the piece. Python's package markers do not."""
    if not piece.source.endswith("/"):
        return piece.target if name == piece.source else None
    rest = name.removeprefix(piece.source)
    if rest == name or rest.rsplit("/", 1)[-1] == "__init__.py":
        return None
    return piece.target + rest


def _write(
    home: Path, target: str, member: Member, *, piece: Piece, written: dict[str, str], origin: str
) -> None:
    path = home / target
    data = member.read()
    if target in written:
        if path.read_bytes() != data:
            raise EnvbuildError(
                "toolchain-conflict",
                f"{written[target]} and {origin} bring different files for {target} of the CUDA toolkit",
                hint="lock one CUDA minor version for both: `envbuild lock REF --upgrade " + origin + "`",
                exit=Exit.VERIFY,
            )
        return
    written[target] = origin
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o755 if piece.program else 0o644)
    os.utime(path, (MTIME, MTIME))


def _lacks(artifact: Artifact, piece: Piece) -> EnvbuildError:
    return EnvbuildError(
        "toolchain-incomplete",
        f"{artifact.basename} has no {piece.source}, which the CUDA compiler needs",
        where=artifact.file,
        hint=f"lock a version of {artifact.name} that has it, for instance the one that envbuild's own recipes lock",
        exit=Exit.VERIFY,
    )
