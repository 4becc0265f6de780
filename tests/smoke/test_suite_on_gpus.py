"""The GPU checks on real GPUs, natively, and seeded defects that each must refuse."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from envbuild.smoke.gpus import present

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(present() < 2, reason="needs two NVIDIA GPUs"),
]


@pytest.fixture
def machine(torch_place):
    """Expectations of what is installed in the Python with torch, DeepSpeed and its compiled operator."""
    code = "import json; from smoke.here import expect_here; print(json.dumps(expect_here().to_dict()))"
    done = subprocess.run(
        [torch_place.python, "-P", "-s", "-c", code],
        env={**os.environ, "PYTHONPATH": str(torch_place.suite)},
        capture_output=True,
        text=True,
        check=True,
    )
    torch_place.expect.clear()
    torch_place.expect.update(json.loads(done.stdout))
    assert torch_place.expect["operator"], "install a DeepSpeed whose FusedAdam is compiled"
    return torch_place


def _seed(place, code):
    folder = place.root / "defect"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    place.environ["PYTHONPATH"] = f"{folder}:{place.suite}:{os.environ.get('PYTHONPATH', '')}"


def test_the_whole_suite_passes(machine):
    process = machine.start()
    out, err = process.communicate(timeout=280)
    report = json.loads(out)
    assert report["result"] == "passed", err
    numbers = {check["id"]: check["numbers"] for check in report["checks"]}
    assert numbers["nccl-all-reduce"]["busbw"] > 0
    assert numbers["zero3-fused-adam"]["operator_error"] <= 1


def test_a_wrong_element_on_one_rank_is_refused(machine):
    _seed(
        machine,
        "import os\nif os.environ.get('RANK') == '1':\n"
        "    import torch.distributed as dist\n    real = dist.all_reduce\n"
        "    def wrong(tensor, *a, **k):\n        done = real(tensor, *a, **k)\n"
        "        tensor.view(-1)[-1] += 1\n        return done\n    dist.all_reduce = wrong\n",
    )
    machine.ask("nccl-all-reduce", limit=250).failed("nccl-all-reduce", "rank 1")


def test_a_wrong_optimizer_is_refused(machine):
    _seed(
        machine,
        "import os\nif os.environ.get('RANK'):\n"
        "    import deepspeed.ops.adam.fused_adam as module\n    real = module.FusedAdam.__init__\n"
        "    def wrong(self, *a, **k):\n        real(self, *a, **{**k, 'adam_w_mode': False})\n"
        "    module.FusedAdam.__init__ = wrong\n",
    )
    machine.ask("zero3-fused-adam", limit=280).failed("zero3-fused-adam", "times the bound")


def test_a_just_in_time_build_is_refused(machine):
    _seed(
        machine,
        "import os\nif os.environ.get('RANK'):\n"
        "    import deepspeed.git_version_info as notes\n    notes.installed_ops['fused_adam'] = False\n",
    )
    machine.ask("zero3-fused-adam", limit=280).failed("zero3-fused-adam", "the shipped one was not taken")


def test_a_driver_floor_above_the_machines_is_refused(machine):
    machine.expect["driver_floor"] = "9999.0"
    machine.ask("cuda-available", limit=100).failed("cuda-available", "driver 9999.0 or newer")


def test_a_hidden_gpu_is_refused(machine):
    machine.environ["CUDA_VISIBLE_DEVICES"] = "0"
    machine.ask("cuda-available", limit=100).failed("cuda-available", "CUDA_VISIBLE_DEVICES is '0'")
