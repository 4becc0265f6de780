"""What is known of CUDA: which package brings which library, driver floors, version numbers."""

from __future__ import annotations

import re

LIBRARY_PACKAGES = {
    "libcudart": ("nvidia-cuda-runtime-cu{major}", "nvidia-cuda-runtime"),
    "libcublas": ("nvidia-cublas-cu{major}", "nvidia-cublas"),
    "libcudnn": ("nvidia-cudnn-cu{major}",),
    "libnccl": ("nvidia-nccl-cu{major}",),
}
"""Library to the package names that bring it, first choice first (CUDA 13's toolkit wheels have no suffix)."""

DRIVER_FLOOR = {"12": "525.60.13", "13": "580.65.06"}
"""Lowest driver of each CUDA major (CUDA compatibility guide, minor version compatibility)."""

BLACKWELL_FLOOR = "570.00"
"""Lowest driver that knows GPUs of compute capability 10.0 and above."""


def version_of(text: str) -> str:
    """``2.26.2`` of ``2.26.2.post1``, ``12.6.77`` of ``12.6.77+local``: the release numbers."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return found.group(0) if found else text


def decode_runtime(number: int) -> str:
    """``12.6`` of 12060 (cudaRuntimeGetVersion: 1000 * major + 10 * minor)."""
    return f"{number // 1000}.{number % 1000 // 10}"


def decode_library(number: int) -> str:
    """``9.5.1`` of 90501, ``2.26.2`` of 22602 (cuDNN 9 and NCCL from 2.9: 10000 * major + 100 * minor + patch)."""
    return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"


def agrees(pinned: str, seen: str) -> bool:
    """Whether ``seen`` (fewer numbers, as a library reports it) is a prefix of ``pinned``."""
    want, have = pinned.split("."), seen.split(".")
    return want[: len(have)] == have
