"""What the compiled wheel depends on, and the key that names the result. Nothing else may reach the build."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact, Lock, NativeLock
from envbuild.native.toolchain import PROFILE, Piece, pieces_for
from envbuild.oci import digest as digests

FORMAT = 1
"""Part of the key: a change in how the wheel is built or repacked needs a new one."""

BUILD_PACKAGES = ("packaging", "setuptools", "typing-extensions")
"""What the build imports besides torch and its libraries (measured with DeepSpeed 0.19.8 and torch 2.7.1)."""

_LIBRARIES = re.compile(
    r"nvidia-(cublas|cuda-cupti|cuda-nvrtc|cuda-runtime|cudnn|cufft|cufile|curand|cusolver|cusparse|cusparselt"
    r"|nccl|nvjitlink|nvshmem|nvtx)(-cu\d+)?"
)
"""The libraries that torch is linked with: ``import torch`` loads them, and setup.py imports torch."""

_COMPILER = re.compile(
    r"(binutils|cpp|g\+\+|gcc|lib(asan|atomic|c|c-dev|ctf|gcc|gmp|gomp|isl|mpc|mpfr|python3|stdc\+\+|zstd)"
    r"|libbinutils|libcrypt|linux-libc-dev|python3|zlib1g)([\d.+-].*)?"
)
"""Debian packages whose bytes can reach the wheel: compiler, linker, C library, Python, and zlib, which packs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The build of one lock's operators.

    ``site`` are the wheels that are unpacked to site-packages, ``tools`` the artifacts that make CUDA_HOME, by
    name; ``debs`` the base's packages that matter. ``operators`` and ``architectures`` are the recipe's.
    """

    source: Artifact
    site: tuple[Artifact, ...]
    tools: Mapping[str, Artifact]
    debs: tuple[Artifact, ...]
    pieces: tuple[Piece, ...]
    operators: tuple[str, ...]
    architectures: tuple[str, ...]

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Every file that the build reads besides the base."""
        return (self.source, *self.site, *self.tools.values())

    def key(self, script: bytes) -> str:
        """64 hex digits that name the result; ``script`` is the program that runs in the sandbox."""
        value = {
            "format": FORMAT,
            "script": digests.of_bytes(script),
            "profile": PROFILE,
            "pieces": [[p.artifact, p.source, p.target, p.program] for p in self.pieces],
            "operators": sorted(self.operators),
            "architectures": list(self.architectures),
            "inputs": sorted([a.name, a.sha256] for a in (*self.artifacts, *self.debs)),
        }
        return digests.of_bytes(digests.canonical_json(value)).removeprefix("sha256:")


def inputs_of(lock: Lock) -> Inputs:
    """Choose the inputs from a lock.

    Raises:
        EnvbuildError: exit 3; the lock lacks something that the build needs.
    """
    native = lock.native
    if native is None:
        raise _incomplete(lock, "DeepSpeed's source")
    deepspeed = cast(Mapping[str, tuple[str, ...]], lock.recipe.get("deepspeed", {}))
    cuda = cast(Mapping[str, str], lock.recipe.get("cuda", {}))
    pieces = pieces_for(int(cuda.get("version", "0").split(".")[0]))
    return Inputs(
        source=native.source,
        site=_site(lock, native),
        tools=_tools(lock, native, pieces),
        debs=tuple(deb for deb in lock.debian if _COMPILER.fullmatch(deb.name)),
        pieces=pieces,
        operators=tuple(deepspeed.get("operators", ())),
        architectures=tuple(deepspeed.get("architectures", ())),
    )


def _site(lock: Lock, native: NativeLock) -> tuple[Artifact, ...]:
    """Torch, what it is linked with, and the build's own packages.

    ``native.build`` pins the latter apart from the image's: upgrading those does not compile again.
    """
    image = _by_name(lock.python)
    own = {**image, **_by_name(native.build)}
    names = {"torch", *BUILD_PACKAGES, *(name for name in image if _LIBRARIES.fullmatch(name))}
    for name in sorted(names - own.keys()):
        raise _incomplete(lock, name)
    return tuple(own[name] for name in sorted(names))


def _tools(lock: Lock, native: NativeLock, pieces: tuple[Piece, ...]) -> dict[str, Artifact]:
    known = {**_by_name(lock.python), **_by_name(native.toolchain)}
    names = dict.fromkeys(piece.artifact for piece in pieces)
    for name in names:
        if name not in known:
            raise _incomplete(lock, name)
    return {name: known[name] for name in names}


def _by_name(artifacts: Iterable[Artifact]) -> dict[str, Artifact]:
    return {artifact.name: artifact for artifact in artifacts}


def _incomplete(lock: Lock, name: str) -> EnvbuildError:
    return EnvbuildError(
        "lock-without-toolchain",
        f"the lock of {lock.ref} has no {name}, which compiling DeepSpeed needs",
        where="$.native",
        hint=f"run `envbuild lock {lock.ref}`",
        exit=Exit.INPUT,
    )
