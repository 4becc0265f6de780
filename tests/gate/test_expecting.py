"""What recipe and lock say becomes what the suite looks for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import expect
from envbuild.smoke.model import parse_expectations


def test_pins_of_the_lock_become_expectations(recipe, lock):
    found = expect(recipe, lock)
    assert found.cuda == "12.6"
    assert {(lib.stem, lib.package, lib.version) for lib in found.libraries} == {
        ("libcudart", "nvidia-cuda-runtime-cu12", "12.6.77"),
        ("libcublas", "nvidia-cublas-cu12", "12.6.4.1"),
        ("libcudnn", "nvidia-cudnn-cu12", "9.5.1.17"),
        ("libnccl", "nvidia-nccl-cu12", "2.26.2"),
    }
    assert found.packages["torch"] == "2.7.1"
    assert found.packages["deepspeed"] == "0.19.8"
    assert {wheel.name for wheel in lock.python} <= set(found.packages)
    assert found.declared == {
        "torch": "2.7.1",
        "deepspeed": "0.19.8",
        "libcudart": "12.6",
        "libcudnn": "9.5.1.17",
        "libnccl": "2.26.2",
    }
    assert found.imports == ("torch", "torchvision", "triton", "deepspeed")
    assert found.operator is not None
    assert found.operator.file == "deepspeed/ops/adam/fused_adam_op.cpython-311-x86_64-linux-gnu.so"
    assert found.operator.architectures == ("7.0", "8.0", "8.6", "9.0+PTX")
    assert (found.driver_floor, found.gpus_wanted, found.gpus_given) == ("525.60.13", 2, None)


def test_torch_cuda_and_the_operators_package_are_hashed(recipe, lock):
    hashed = set(expect(recipe, lock).hashed)
    assert {"torch", "triton", "deepspeed", "nvidia-nccl-cu12", "nvidia-cusparselt-cu12"} <= hashed
    assert {name for name in expect(recipe, lock).packages if name.startswith("nvidia-")} <= hashed


def test_cuda_13s_toolkit_wheels_have_no_suffix(recipe, lock):
    names = {
        "nvidia-cuda-runtime-cu12": "nvidia-cuda-runtime",
        "nvidia-cublas-cu12": "nvidia-cublas",
        "nvidia-cudnn-cu12": "nvidia-cudnn-cu13",
        "nvidia-nccl-cu12": "nvidia-nccl-cu13",
    }
    python = tuple(replace(wheel, name=names.get(wheel.name, wheel.name)) for wheel in lock.python)
    found = expect(replace(recipe, cuda=replace(recipe.cuda, version="13.0")), replace(lock, python=python))
    assert {lib.package for lib in found.libraries} == set(names.values())
    assert found.driver_floor == "580.65.06"


def test_a_recipe_without_deepspeed_has_no_operator(recipe, lock):
    found = expect(replace(recipe, deepspeed=None), replace(lock, native=None))
    assert found.operator is None
    assert "deepspeed" not in found.packages


def test_a_lock_without_nccl_is_refused(recipe, lock):
    python = tuple(wheel for wheel in lock.python if "nccl" not in wheel.name)
    with pytest.raises(EnvbuildError) as caught:
        expect(recipe, replace(lock, python=python))
    assert (caught.value.id, caught.value.exit) == ("library-not-locked", Exit.INPUT)
    assert "nvidia-nccl-cu12" in caught.value.message


def test_the_suite_reads_what_the_host_writes(recipe, lock):
    found = expect(recipe, lock, gpus_given=8)
    assert parse_expectations(json.loads(json.dumps(found.to_dict()))) == found
