"""Which layer a package goes into: a fixed function of its name, never of sizes or of what else is there.

So a changed package changes its own layer and no other one's content, and an image keeps the layers of the one before.
"""

from __future__ import annotations

import hashlib
import re

from packaging.utils import canonicalize_name

BUCKETS = 6
"""How many layers the packages without one of their own share."""

_OWN = frozenset(
    {
        "deepspeed",
        "flash-attn",
        "jax",
        "jaxlib",
        "numpy",
        "onnxruntime-gpu",
        "opencv-python",
        "opencv-python-headless",
        "pandas",
        "pyarrow",
        "pyspark",
        "ray",
        "scipy",
        "tensorflow",
        "tensorrt",
        "torch",
        "torchaudio",
        "torchvision",
        "transformers",
        "triton",
        "vllm",
        "xformers",
    }
)
_OWN_CUDA = frozenset(
    {
        "cublas",
        "cudnn",
        "cufft",
        "curand",
        "cusolver",
        "cusparse",
        "cusparselt",
        "nccl",
        "npp",
        "nvjpeg",
        "nvshmem",
    }
)
_CUDA = re.compile(r"(?:nvidia|cuda)-(?P<part>.+?)(?:-cu\d+)?")


def group_of(name: str) -> str:
    """The layer of a package's files.

    ``torch`` and other big packages, and NVIDIA's big libraries, have a layer each; NVIDIA's small ones share
    ``cuda``; all others are spread over ``python-1`` … by a hash of the normalised name.

    Args:
        name: a project name in any spelling.
    """
    normal = canonicalize_name(name)
    if normal in _OWN:
        return normal
    if found := _CUDA.fullmatch(normal):
        return found["part"] if found["part"] in _OWN_CUDA else "cuda"
    digest = hashlib.sha256(normal.encode()).digest()
    return f"python-{int.from_bytes(digest[:8]) % BUCKETS + 1}"


def code_group_of(name: str) -> str:
    """The layer of a package's byte code: that of its files, but one for all of NVIDIA's, which have next to none."""
    normal = canonicalize_name(name)
    return "cuda" if _CUDA.fullmatch(normal) and normal not in _OWN else group_of(name)
