"""Trainings with DeepSpeed on two CPU processes, and seeded defects that their checks must refuse."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from gloo_ranks import ask
from suiteseed import EMPTY, WRONG_SHARD

from envbuild.smoke.checks.zero3_fused_adam import KERNEL
from envbuild.smoke.surroundings import barred, built

EXPECT = json.loads(json.dumps(EMPTY))

PLAIN = [
    ("zero3-fused-adam", {"fused": False}),
    ("zero-stages", {"fused": False}),
    ("zero-checkpoint", {"fused": False}),
    ("zero-offload", {"ways": ["torch_adam"]}),
]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, torch_interpreter):
    """All trainings, of the same two ranks."""
    answers = ask(tmp_path_factory.mktemp("healthy"), torch_interpreter, PLAIN, expect=EXPECT)
    return {check: answer for (check, _), answer in zip(PLAIN, answers, strict=True)}


def _within(numbers):
    assert all(numbers["distance"][name] <= bound for name, bound in numbers["bounds"].items())
    assert len(numbers["losses"]) == len(numbers["step_seconds"]) == numbers["steps"]


@pytest.mark.torch
@pytest.mark.timeout(600)
def test_zero3_in_bfloat16_is_within_the_bounds_of_the_reference(healthy):
    _within(healthy["zero3-fused-adam"].passed())


@pytest.mark.torch
def test_zero1_and_zero2_are_too(healthy):
    numbers = healthy["zero-stages"].passed()
    assert list(numbers["stages"]) == ["1", "2"]
    for stage in numbers["stages"].values():
        _within(stage)


@pytest.mark.torch
def test_the_merged_checkpoint_has_the_exact_weights(healthy):
    numbers = healthy["zero-checkpoint"].passed()
    assert numbers["shards"] == 2
    assert numbers["weights"]["tensors"] == 30
    assert len(numbers["losses"]) == len(numbers["step_seconds"])


@pytest.mark.torch
def test_offloaded_state_and_parameters_are_on_the_cpu_and_right(healthy):
    numbers = healthy["zero-offload"].passed()["ways"]["torch_adam"]
    _within(numbers)
    assert (numbers["optimizer"], numbers["state_on"], numbers["parameters_on"]) == (
        "AdamW",
        ["cpu"],
        ["cpu"],
    )


@pytest.mark.torch
def test_the_trainings_used_the_same_ranks(healthy):
    assert len({tuple(answer.ranks) for answer in healthy.values()}) == 1


NO_DECAY = """
import os
if os.environ.get("RANK"):
    import torch
    real = torch.optim.AdamW.__init__
    def wrong(self, parameters, *a, **k):
        real(self, parameters, *a, **({**k, "weight_decay": 0.0} if "weight_decay" in k and "bias" not in k and
                                      "betas" in k and isinstance(k["betas"], list) else k))
    torch.optim.AdamW.__init__ = wrong
"""
"""DeepSpeed hands over the JSON's betas, which are a list; the reference's are a tuple."""

SAME_DATA = """
import os
if os.environ.get("RANK") == "1":
    import smoke.transformer as transformer
    real = transformer.batch_of
    transformer.batch_of = lambda task, *, step, rank: real(task, step=step, rank=0)
"""

LOST_SHARD = """
import os
if os.environ.get("RANK") == "1":
    import torch
    real = torch.save
    def wrong(value, path, *a, **k):
        if not str(path).endswith("optim_states.pt"):
            return real(value, path, *a, **k)
    torch.save = wrong
"""

NOT_RESUMED = """
import os
if os.environ.get("RANK"):
    import deepspeed
    deepspeed.DeepSpeedEngine.load_checkpoint = lambda self, folder: (folder, {})
"""


def _refused(folder, python, ask_for, defect, *texts, environ=None):
    (answer,) = ask(folder, python, [ask_for], expect=EXPECT, defect=defect, environ=environ)
    return answer.failed(*texts)


@pytest.mark.torch
@pytest.mark.timeout(600)
def test_another_optimizer_is_refused_at_every_stage(tmp_path, torch_interpreter):
    checks = [PLAIN[0], PLAIN[1], PLAIN[3]]
    answers = ask(tmp_path, torch_interpreter, checks, expect=EXPECT, defect=NO_DECAY)
    for answer, text in zip(answers, ["", "ZeRO-1: ", "offloaded, AdamW: "], strict=True):
        answer.failed(f"{text}weight update off by")


@pytest.mark.torch
def test_a_training_that_misses_a_ranks_data_is_refused(tmp_path, torch_interpreter):
    _refused(tmp_path, torch_interpreter, PLAIN[0], SAME_DATA, "gradient norm off by", "weight update off by")


@pytest.mark.torch
def test_a_wrong_number_in_one_ranks_shard_is_refused(tmp_path, torch_interpreter):
    _refused(
        tmp_path, torch_interpreter, PLAIN[2], WRONG_SHARD, "the weights that zero_to_fp32.py wrote", ": 1 of"
    )


@pytest.mark.torch
def test_a_shard_that_was_not_written_is_refused_in_the_scripts_words(tmp_path, torch_interpreter):
    _refused(tmp_path, torch_interpreter, PLAIN[2], LOST_SHARD, "zero_to_fp32.py to merge", "Error")


@pytest.mark.torch
def test_a_training_that_does_not_resume_is_refused(tmp_path, torch_interpreter):
    _refused(
        tmp_path, torch_interpreter, PLAIN[2], NOT_RESUMED, "the weights after load_checkpoint", "differ"
    )


@pytest.mark.torch
def test_zero_to_fp32_without_huggingface_hub_is_a_warning(tmp_path, torch_interpreter):
    defect = "import sys\nsys.modules['huggingface_hub'] = None\n"
    hidden = (
        "import importlib.util as u, sys\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'huggingface_hub' else real(name, *a)\n"
    )
    (answer,) = ask(tmp_path, torch_interpreter, [PLAIN[2]], expect=EXPECT, defect=defect + hidden)
    assert answer.passed()["weights"]["tensors"] == 30
    assert any("huggingface_hub is not installed" in text for text in answer.found["warnings"])


@pytest.mark.torch
def test_offload_where_nothing_compiles_is_refused_with_the_way_out(tmp_path, torch_interpreter):
    environ = {"PATH": str(tmp_path)}
    found = _refused(
        tmp_path, torch_interpreter, ("zero-offload", {}), "", "cpu_adam", "ninja", environ=environ
    )
    assert '"torch_adam": true' in found["hint"]


EXTENSION = ("cpp-extension", {})


@pytest.mark.torch
@pytest.mark.timeout(900)
def test_the_cpu_optimizer_compiles_once_and_is_right(tmp_path, torch_interpreter):
    asks = [EXTENSION, ("zero-offload", {"ways": ["cpu_adam"]})]
    extension, offload = ask(tmp_path, torch_interpreter, asks, expect=EXPECT)
    numbers = extension.passed()
    assert numbers["module"] == "cpu_adam"
    assert 0 < numbers["error"] <= 1
    trained = offload.passed()
    assert trained["compiled"]["compile_seconds"] == numbers["compile_seconds"], "the same build"
    assert trained["compiled"]["waited_seconds"] < 1
    assert trained["ways"]["cpu_adam"]["optimizer"] == "DeepSpeedCPUAdam"
    _within(trained["ways"]["cpu_adam"])


HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "setuptools":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.torch
def test_an_image_without_setuptools_is_refused_and_the_module_is_named(tmp_path, torch_interpreter):
    (answer,) = ask(tmp_path, torch_interpreter, [EXTENSION], expect=EXPECT, defect=HIDDEN)
    assert "setuptools" in answer.failed("cpu_adam")["hint"]


@pytest.mark.torch
def test_an_image_without_a_compiler_is_refused_without_a_gpu(tmp_path, torch_interpreter):
    environ = {"PATH": str(torch_interpreter.parent)}
    (answer,) = ask(tmp_path, torch_interpreter, [EXTENSION], expect=EXPECT, environ=environ)
    assert "no C or C++ compiler on PATH" in answer.failed("cpu_adam")["hint"]


WRONG_STEP = """
import sys
if any("cpu_adam" in word for word in sys.orig_argv):
    import deepspeed.ops.op_builder as builders
    class Builder(builders.CPUAdamBuilder):
        def load(self, *a, **k):
            class Module:
                __name__ = "cpu_adam"
                create_adam = destroy_adam = lambda self, *a, **k: 0
                def adam_update(self, which, step, lr, b1, b2, eps, decay, bias, p, g, m, v):
                    import torch
                    torch.add(p, g, alpha=-lr, out=p)
            return Module()
    builders.CPUAdamBuilder = Builder
    import deepspeed.ops.adam.cpu_adam as module
    module.CPUAdamBuilder = Builder
"""


@pytest.mark.torch
def test_an_optimizer_that_computes_something_else_is_refused(tmp_path, torch_interpreter):
    (answer,) = ask(tmp_path, torch_interpreter, [EXTENSION], expect=EXPECT, defect=WRONG_STEP)
    answer.failed("DeepSpeedCPUAdam within its bound", "times the bound")


NOT_DEEPSPEEDS = """
import os
if os.environ.get("RANK"):
    import torch
    from deepspeed.runtime.engine import DeepSpeedEngine
    def other(self, parameters, *a, **k):
        parameters.pop("torch_adam")
        return torch.optim.Adam, {}
    DeepSpeedEngine.get_optimizer_configuration = other
"""


@pytest.mark.torch
def test_offload_with_another_optimizer_is_refused(tmp_path, torch_interpreter):
    _refused(tmp_path, torch_interpreter, PLAIN[3], NOT_DEEPSPEEDS, "AdamW, its state", "Adam, state on cpu")


OPERATOR = """
import json, sys, torch
from smoke.transformer import Task
from smoke.zero3 import operator_error
def error(name, changes):
    def make(parameters, task):
        settings = dict(lr=task.lr, betas=task.betas, eps=task.eps, weight_decay=task.weight_decay)
        return getattr(torch.optim, name)(parameters, **{**settings, **changes})
    return operator_error(make, Task(), device="cpu")
print(json.dumps([error(*variant) for variant in json.load(sys.stdin)]))
"""

RIGHT = ("AdamW", {})
SLIGHTLY_WRONG = [
    ("Adam", {}),
    ("AdamW", {"weight_decay": 0.99}),
    ("AdamW", {"betas": (0.9, 0.998)}),
    ("AdamW", {"betas": (0.91, 0.999)}),
    ("AdamW", {"lr": 1.001e-3}),
    ("AdamW", {"eps": 1e-5}),
]


@pytest.mark.torch
def test_the_operators_bound_takes_a_right_optimizer_and_no_slightly_wrong_one(torch_place):
    done = subprocess.run(
        [torch_place.python, "-P", "-s", "-c", OPERATOR],
        input=json.dumps([RIGHT, *SLIGHTLY_WRONG]),
        env={**os.environ, "PYTHONPATH": str(torch_place.suite)},
        capture_output=True,
        text=True,
        check=True,
    )
    right, *wrong = json.loads(done.stdout)
    assert right <= 1
    assert [variant for variant, error in zip(SLIGHTLY_WRONG, wrong, strict=True) if error <= 1] == []


def test_only_deepspeeds_kernel_proves_the_operator():
    ours = "void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float, int>, float, float>(long, int*)"
    torchs = (
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
        "FusedOptimizerTensorListMetadata<4>, at::native::(anonymous namespace)::FusedAdamMathFunctor<float, 4>>()"
    )
    assert KERNEL.search(ours)
    assert not KERNEL.search(torchs)


def test_compilers_are_taken_away_and_the_rest_stays(tmp_path):
    for folder, programs in {
        "cuda": ["nvcc", "cuobjdump"],
        "venv": ["ninja", "python"],
        "plain": ["sh"],
    }.items():
        (tmp_path / folder).mkdir()
        for program in programs:
            (tmp_path / folder / program).write_text("")
    scratch, extensions = tmp_path / "scratch", tmp_path / "scratch/extensions"
    extensions.mkdir(parents=True)
    path = ":".join(str(tmp_path / name) for name in ("cuda", "venv", "plain"))
    given = {"PATH": path, "CUDA_HOME": "/usr/local/cuda", "DS_ACCELERATOR": "cpu", "NCCL_NVLS_ENABLE": "0"}
    environ = barred(given, scratch, extensions)
    seen = {entry.name for folder in environ["PATH"].split(":") for entry in Path(folder).iterdir()}
    assert seen == {"cuobjdump", "python", "sh"}
    assert not Path(environ["CUDA_HOME"]).exists()
    assert "DS_ACCELERATOR" not in environ
    assert environ["NCCL_NVLS_ENABLE"] == "0"
    assert barred(given, scratch, extensions) == environ
    assert built(extensions) == []
    (extensions / "fused_adam").mkdir()
    assert built(extensions) == ["fused_adam"]
