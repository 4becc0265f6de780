"""What one real GPU can show, and seeded defects that the checks must refuse there."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from suiteseed import seed

from envbuild.smoke.gpus import present

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(present() < 1, reason="needs an NVIDIA GPU"),
]


def test_arithmetic_is_within_its_bounds_and_tf32_is_really_used(gpu_place):
    numbers = gpu_place.ask("arithmetic").passed("arithmetic")
    assert len(numbers["gpus"]) == present()
    for gpu in numbers["gpus"]:
        assert all(error <= 1 for errors in gpu["errors"].values() for error in errors.values())
        assert all(ratio > 1 for ratio in gpu["tf32_over_fp32_bound"].values())


def test_tf32_where_float32_was_asked_for_is_refused(gpu_place):
    gpu_place.environ["NVIDIA_TF32_OVERRIDE"] = "1"
    gpu_place.ask("arithmetic").failed("arithmetic", "fp32 matrix", "times the bound")


def test_float32_where_tf32_was_asked_for_is_refused(gpu_place):
    gpu_place.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    gpu_place.ask("arithmetic").failed("arithmetic", "tensor cores were not used")


def test_one_wrong_element_is_refused_and_named(gpu_place):
    seed(
        gpu_place,
        "import torch\nreal = torch.Tensor.__matmul__\n"
        "def wrong(left, right):\n    done = real(left, right)\n"
        "    if done.is_cuda and done.dtype is torch.bfloat16:\n        done[7, 11] += 4\n    return done\n"
        "torch.Tensor.__matmul__ = wrong\n",
    )
    gpu_place.ask("arithmetic").failed(
        "arithmetic", "bf16 matrix 512x1024x768", "element 5387:", "1 of 393216"
    )


def test_a_convolution_without_cudnn_is_refused(gpu_place):
    seed(gpu_place, "import torch\ntorch.backends.cudnn.enabled = False\n")
    gpu_place.ask("arithmetic").failed("arithmetic", "aten::cudnn_convolution")


def test_model_and_kernel_compile_with_fresh_caches(gpu_place):
    numbers = gpu_place.ask("compile", limit=200).passed("compile")
    for gpu in numbers["gpus"]:
        assert gpu["graphs"] >= 1
        assert gpu["kernels"] >= 2
        assert all(error <= 1 for error in gpu["error_over_bound"].values())


def test_an_image_without_a_c_compiler_is_refused(gpu_place):
    gpu_place.environ |= {"PATH": str(gpu_place.root), "CC": ""}
    gpu_place.ask("compile", limit=200).failed("compile", "compiler", "gcc --version")


def test_a_model_that_runs_uncompiled_is_refused(gpu_place):
    gpu_place.environ["TORCHDYNAMO_DISABLE"] = "1"
    gpu_place.ask("compile", limit=200).failed("compile", "0 graphs", "TORCHDYNAMO_DISABLE")


def test_compiled_code_that_computes_something_else_is_refused(gpu_place):
    seed(
        gpu_place,
        "import torch\nreal = torch.compile\n"
        "def wrong(model, **k):\n    call = real(model, **k)\n    return lambda x: call(x) * 1.0001\n"
        "torch.compile = wrong\n",
    )
    gpu_place.ask("compile", limit=200).failed("compile", "output is off by", "times the bound")


def _other_nccl(place):
    """A copy of the pinned NCCL elsewhere: another file, whatever its content."""
    numbers = place.ask("loaded").passed("loaded")
    return shutil.copy(numbers["libraries"]["libnccl"]["file"], place.root / "libnccl.so.2")


def test_another_nccl_in_the_process_is_refused(gpu_place):
    other = _other_nccl(gpu_place)
    gpu_place.environ["LD_PRELOAD"] = str(other)
    gpu_place.ask("loaded").failed("loaded", str(other), "libnccl")


def test_another_nccl_in_one_rank_only_is_refused(gpu_place):
    other = _other_nccl(gpu_place)
    seed(gpu_place, f"import ctypes, os\nif os.environ.get('RANK') == '1': ctypes.CDLL({str(other)!r})\n")
    gpu_place.ask("gloo-all-reduce").failed("gloo-all-reduce", "rank 1", str(other))


def test_this_host_is_fit(gpu_place):
    numbers = gpu_place.ask("host").passed("host")
    assert len(numbers["gpus"]) == numbers["cuda"]["gpus"] == present()


def test_a_driver_floor_above_this_machines_is_refused(gpu_place):
    gpu_place.expect["driver_floor"] = "9999.0"
    answer = gpu_place.ask("host", "cuda-available")
    answer.failed("host", "driver 9999.0 or newer")
    answer.failed("cuda-available", "driver 9999.0 or newer")


def test_gpus_that_torch_does_not_see_are_no_machine_without_gpus(gpu_place):
    gpu_place.environ["CUDA_VISIBLE_DEVICES"] = ""
    answer = gpu_place.ask("cuda-available", "arithmetic", "compile", "host")
    for name in ("cuda-available", "arithmetic", "compile", "host"):
        answer.failed(name)


def test_more_gpus_wanted_than_here_is_no_pass_and_no_failure(gpu_place):
    process = gpu_place.start("--only", "cuda-available", "--gpus", str(present() + 6))
    out, err = process.communicate(timeout=100)
    report = json.loads(out)
    assert (process.returncode, report["result"]) == (3, "candidate"), err
    assert f"{present() + 6} GPUs are wanted" in report["why"]


def test_nothing_of_it_was_left_on_the_cpu(gpu_place):
    """The report names the GPU that each of the checks computed on."""
    answer = gpu_place.ask("cuda-available", "compile", limit=200)
    (gpu, *_), compiled = answer.report["gpus"], answer.passed("compile")["gpus"][0]
    assert gpu["name"] in compiled["device"]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None
