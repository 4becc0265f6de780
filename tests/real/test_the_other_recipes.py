"""The other recipes on real input: built to their locked digests, the suite's CPU part, and their devel variants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from realimage import Real, locked_digest

pytestmark = [pytest.mark.real, pytest.mark.network]

OPERATOR = """
import json, pathlib, subprocess
import torch
from deepspeed.ops.op_builder import FusedLambBuilder

module = FusedLambBuilder().load()
tool = pathlib.Path(__import__("triton").__file__).parent / "backends/nvidia/bin/cuobjdump"
code = subprocess.run([tool, "--list-elf", "--list-ptx", module.__file__], capture_output=True, text=True).stdout
mapped = {line.split()[-1] for line in open("/proc/self/maps") if "libcudart" in line}
print(json.dumps({"name": module.__name__, "file": module.__file__, "code": code, "lamb": callable(module.lamb),
                  "cudart": sorted(mapped)}))
"""
KERNEL = """
#include <cstdio>
#include <cub/cub.cuh>
#include <curand_kernel.h>
#include <cudnn.h>
#include <nccl.h>
__global__ void one(int *place) { *place = 1; }
int main() {
  int count = -1;
  one<<<1, 1>>>(nullptr);
  printf("%d GPUs: %s\\n", count, cudaGetErrorString(cudaGetDeviceCount(&count)));
}
"""


def devel(real: Real) -> str:
    return f"{real.ref}-devel"


def in_devel(real: Real, folder: Path, *argv: str) -> str:
    """Run a command in the devel image, without a network; ``folder`` is /given."""
    variables = ["DS_ACCELERATOR=cuda", "TORCH_CUDA_ARCH_LIST=9.0", "TORCH_EXTENSIONS_DIR=/tmp/extensions"]
    options = [word for text in variables for word in ("-e", text)]
    return real.envbuild(
        "run", "--engine", "sandbox", "--no-network", *options, "-v", f"{folder}:/given:ro", devel(real), "--", *argv
    ).stdout  # fmt: skip


def test_it_is_built_to_the_digest_in_its_lock(another: Real) -> None:
    assert another.answer["digest"] == locked_digest(another.ref)
    assert another.answer["candidate"] is True
    assert len(another.answer["layers"]) <= 40


def test_its_devel_variant_makes_the_toolkit_and_shares_all_else(another: Real) -> None:
    answer = json.loads(another.envbuild("image", another.ref, "--devel", "--no-load", "--json").stdout)
    assert answer["ref"] == devel(another)
    assert answer["digest"] == locked_digest(devel(another))
    shared = {layer["digest"] for layer in another.answer["layers"]}
    assert {x["name"] for x in answer["layers"] if x["digest"] not in shared} == {"toolkit", "programs"}
    assert answer["bytes_fetched"] == 0


def test_what_nvcc_links_uses_the_cuda_runtime_of_torch(another: Real, tmp_path: Path) -> None:
    (tmp_path / "one.cu").write_text(KERNEL)
    script = "nvcc -arch=sm_90 /given/one.cu -o /tmp/one && /tmp/one && ldd /tmp/one; ldconfig -p"
    said = in_devel(another, tmp_path, "bash", "-euc", script)
    assert said.splitlines()[0].startswith(("-1 GPUs: ", "0 GPUs: "))
    [runtime] = [line for line in said.splitlines() if "libcudart" in line]
    assert runtime.split()[2].startswith("/usr/local/cuda/lib64/libcudart.so.")
    assert "libcudart" not in said.partition(" libs found in cache")[2], "the toolkit is not in ld.so's cache"


def test_an_operator_compiles_in_the_devel_image_without_a_network(another: Real, tmp_path: Path) -> None:
    (tmp_path / "compile_lamb.py").write_text(OPERATOR)
    told = json.loads(in_devel(another, tmp_path, "python", "/given/compile_lamb.py").splitlines()[-1])
    assert told["name"] == "fused_lamb"
    assert told["lamb"] is True
    assert told["file"].startswith("/tmp/extensions/")
    assert "sm_90" in told["code"]
    assert len(told["cudart"]) == 1, "one CUDA runtime in the process"
    assert "/site-packages/nvidia/" in told["cudart"][0]


def test_the_part_of_the_suite_that_needs_no_gpu_passes(another: Real, tmp_path: Path) -> None:
    """In the devel image, which holds the other's layers and the toolkit."""
    report = tmp_path / "verdict.json"
    told = another.envbuild("smoke", devel(another), "--engine", "sandbox", "--report", str(report), "--json")
    verdict = json.loads(told.stdout)["verdict"]
    assert verdict["subject"]["manifest"] == locked_digest(devel(another))
    assert verdict["result"] == "candidate"
    status = {check["id"]: check["status"] for check in verdict["checks"]}
    assert "failed" not in status.values()
    assert {"versions", "imports", "loaded", "operator-file", "gloo-all-reduce", "cpp-extension"} <= {
        name for name, text in status.items() if text == "passed"
    }
