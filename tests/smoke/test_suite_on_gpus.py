"""The checks between real GPUs, natively, and seeded defects that each must refuse."""

from __future__ import annotations

import json

import pytest
from suiteseed import NOT_AVERAGED, WRONG_SHARD, seed

from envbuild.smoke.gpus import present

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(present() < 2, reason="needs two NVIDIA GPUs"),
]

WRONG_SUM = """
import os
if os.environ.get("RANK") == "1":
    import torch.distributed as dist
    real = dist.reduce_scatter_tensor
    def wrong(output, *a, **k):
        done = real(output, *a, **k)
        output.view(-1)[-1] += 1
        return done
    dist.reduce_scatter_tensor = wrong
"""

WRONG_COPY = """
import os
if os.environ.get("RANK") == "0":
    import torch
    real = torch.Tensor.copy_
    def wrong(self, source, *a, **k):
        done = real(self, source, *a, **k)
        if self.is_cuda and source.is_cuda and self.device != source.device and self.numel() > 100:
            self[99] = -7
        return done
    torch.Tensor.copy_ = wrong
"""

NOT_DECOUPLED = """
import os
if os.environ.get("RANK"):
    import deepspeed.ops.adam.fused_adam as module
    real = module.FusedAdam.__init__
    def wrong(self, *a, **k):
        real(self, *a, **{**k, "adam_w_mode": False})
    module.FusedAdam.__init__ = wrong
"""

JUST_IN_TIME = """
import os
if os.environ.get("RANK"):
    import deepspeed.git_version_info as notes
    notes.installed_ops["fused_adam"] = False
"""

TORCHS_ADAM = """
import os
if os.environ.get("RANK"):
    import torch
    from deepspeed.runtime.engine import DeepSpeedEngine
    DeepSpeedEngine.get_optimizer_configuration = lambda self, *a, **k: (torch.optim.AdamW, {})
"""

NOT_OFFLOADED = """
import os
if os.environ.get("RANK"):
    import deepspeed
    real = deepspeed.initialize
    def wrong(*a, config, **k):
        zero = config["zero_optimization"]
        if "offload_param" in zero:
            zero["offload_param"] = {"device": "none"}
        return real(*a, config=config, **k)
    deepspeed.initialize = wrong
"""


def test_two_gpus_pass_the_whole_suite(gpu_place):
    process = gpu_place.start()
    out, err = process.communicate(timeout=280)
    report = json.loads(out)
    assert report["result"] == "passed", err
    numbers = {check["id"]: check["numbers"] for check in report["checks"]}
    nccl = numbers["nccl"]
    assert min(nccl["busbw"].values()) >= nccl["floor"]["busbw"] > 0
    assert set(nccl["curve"]) == {"all_reduce", "all_gather", "reduce_scatter", "broadcast"}
    assert nccl["curve"]["all_reduce"][-1]["bytes"] == 1 << 30
    assert nccl["transport"] != "unknown"
    assert all(pair["wrong"] is None for pair in numbers["peer-copy"]["pairs"])
    assert numbers["zero3-fused-adam"]["operator_error"] <= 1
    assert "AdamFunctor" in numbers["zero-stages"]["stages"]["1"]["optimizer"]["kernel"]
    assert numbers["zero-offload"]["ways"]["cpu_adam"]["parameters_on"] == ["cpu"]


@pytest.mark.parametrize(
    ("check", "defect", "texts"),
    [
        ("nccl", WRONG_SUM, ["rank 1, reduce_scatter of", "1 wrong"]),
        ("peer-copy", WRONG_COPY, ["GPU 0 to 1", "the first at 99", "cudaDeviceCanAccessPeer says"]),
        (
            "ddp",
            NOT_AVERAGED,
            ["rank 0: the gradient of", "rank 1: its gradients differ from those of rank 0"],
        ),
        ("zero3-fused-adam", NOT_DECOUPLED, ["times the bound"]),
        ("zero3-fused-adam", JUST_IN_TIME, ["the shipped one was not taken"]),
        ("zero-stages", TORCHS_ADAM, ["to be deepspeed.ops.adam.fused_adam.FusedAdam", "torch.optim"]),
        ("zero-checkpoint", WRONG_SHARD, ["the weights that zero_to_fp32.py wrote", "1 of "]),
        ("zero-offload", NOT_OFFLOADED, ["shards on cuda"]),
    ],
    ids=["sum", "copy", "average", "decay", "build", "optimizer", "shard", "offload"],
)
def test_two_gpus_refuse_a_wrong(gpu_place, check, defect, texts):
    seed(gpu_place, defect)
    gpu_place.ask(check, limit=280).failed(check, *texts)


def test_two_gpus_that_do_not_use_their_links_miss_the_floor(gpu_place):
    gpu_place.environ["NCCL_P2P_DISABLE"] = "1"
    found = gpu_place.ask("nccl", limit=280).failed("nccl", "GB/s bus bandwidth over", "SHM")
    assert found["warnings"]


def test_two_gpus_are_held_to_the_floor_of_the_data_file(gpu_place):
    floors = gpu_place.suite / "smoke/floors.toml"
    floors.write_text(floors.read_text().replace("fraction = 0.4", "fraction = 4.0"))
    found = gpu_place.ask("nccl", limit=280).failed("nccl", "at least", "floors.toml, nvlink")
    assert found["numbers"]["floor"]["busbw"] > max(found["numbers"]["busbw"].values())


def test_two_gpus_of_which_one_is_hidden_are_refused(gpu_place):
    gpu_place.environ["CUDA_VISIBLE_DEVICES"] = "0"
    gpu_place.ask("nccl", limit=100).failed("nccl", "torch sees 1", "2 GPU(s)")


def test_two_gpus_under_a_driver_floor_above_theirs_are_refused(gpu_place):
    gpu_place.expect["driver_floor"] = "9999.0"
    gpu_place.ask("cuda-available", limit=100).failed("cuda-available", "driver 9999.0 or newer")


def test_two_gpus_in_an_environment_that_cannot_compile_fail_the_offload(gpu_place):
    gpu_place.environ["PATH"] = "/nowhere"
    gpu_place.ask("zero-offload", limit=280).failed("zero-offload", "torch_adam", "g++ and ninja")
