"""Groups: a fixed function of the name, few layers, and a change touches one of them."""

from __future__ import annotations

import subprocess
import sys

from envbuild.layers.groups import BUCKETS, code_group_of, group_of

V27 = [
    "annotated-types",
    "deepspeed",
    "einops",
    "filelock",
    "fsspec",
    "hjson",
    "jinja2",
    "markupsafe",
    "mpmath",
    "msgpack",
    "networkx",
    "ninja",
    "numpy",
    "nvidia-cublas-cu12",
    "nvidia-cuda-cupti-cu12",
    "nvidia-cuda-nvrtc-cu12",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cufft-cu12",
    "nvidia-cufile-cu12",
    "nvidia-curand-cu12",
    "nvidia-cusolver-cu12",
    "nvidia-cusparse-cu12",
    "nvidia-cusparselt-cu12",
    "nvidia-nccl-cu12",
    "nvidia-nvjitlink-cu12",
    "nvidia-nvtx-cu12",
    "packaging",
    "pillow",
    "pip",
    "psutil",
    "py-cpuinfo",
    "pydantic",
    "pydantic-core",
    "setuptools",
    "sympy",
    "torch",
    "torchvision",
    "tqdm",
    "triton",
    "typing-extensions",
    "typing-inspection",
]


def test_groups_stay_as_they_are() -> None:
    """Another group for a name changes layers of every image: raise FORMAT."""
    names = [
        "torch",
        "nvidia-cudnn-cu12",
        "nvidia-cudnn-cu13",
        "nvidia-cublas",
        "nvidia-nvtx-cu12",
        "cuda-bindings",
    ]
    assert [group_of(name) for name in names] == ["torch", "cudnn", "cudnn", "cublas", "cuda", "cuda"]
    assert [group_of(name) for name in ("sympy", "pip", "jinja2", "tqdm", "filelock", "networkx")] == [
        "python-5", "python-4", "python-3", "python-6", "python-2", "python-1",
    ]  # fmt: skip


def test_the_spelling_of_a_name_does_not_matter() -> None:
    assert group_of("NVIDIA_cuDNN.cu12") == group_of("nvidia-cudnn-cu12")
    assert group_of("Typing.Extensions") == group_of("typing-extensions")


def test_an_image_of_v27_has_a_base_a_frame_and_less_than_forty_layers() -> None:
    wheels = {group_of(name) for name in V27}
    code = {code_group_of(name) for name in V27}
    assert {"torch", "triton", "numpy", "cudnn", "nccl"} <= wheels
    assert len(wheels) <= 26
    assert len(wheels) + len(code) + 3 <= 40


def test_any_number_of_small_packages_shares_a_fixed_number_of_layers() -> None:
    assert {group_of(f"package-{number}") for number in range(500)} == {
        f"python-{n + 1}" for n in range(BUCKETS)
    }


def test_the_hash_is_the_same_in_every_process() -> None:
    program = "import sys; from envbuild.layers.groups import group_of; print(*map(group_of, sys.argv[1:]))"
    command = [sys.executable, "-c", program, *V27]
    seen = {
        subprocess.run(
            command, check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1")
    }
    assert seen == {" ".join(map(group_of, V27)) + "\n"}
