"""Formulas, keys and configurations against DeepSpeed itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_check_config import changed, found

from envbuild.advise import VERSION, Job, Level, Strategy, Wish, choose, configuration, known_keys, shape
from envbuild.advise.memory import cpu_memory, model_states
from envbuild.errors import EnvbuildError

ROOT = Path(__file__).parents[2]
Ask = Callable[[str, object], Any]

ESTIMATORS = """
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as two
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as three
answer = []
for row in given:
    where = {"num_gpus_per_node": min(row["gpus"], 8), "num_nodes": row["nodes"], "total_params": row["parameters"]}
    if row["stage"] == 2:
        answer.append(two(cpu_offload=row["optimizer"], **where))
    else:
        answer.append(three(largest_layer_params=row["largest"], cpu_offload=row["optimizer"],
                            cpu_offload_params=row["parameters_too"], **where))
"""
STRATEGIES = (
    Strategy(stage=2),
    Strategy(stage=2, offload_optimizer=True),
    Strategy(stage=3),
    Strategy(stage=3, offload_optimizer=True),
    Strategy(stage=3, offload_optimizer=True, offload_parameters=True),
)


def test_model_states_are_those_of_deepspeeds_estimators(ask_deepspeed: Ask) -> None:
    cases = [
        (Job(model=shape(size), gpus=gpus, gpu_memory=80 * 10**9), strategy)
        for size in (125_000_000, 7_000_000_000)
        for gpus in (8, 16, 64)
        for strategy in STRATEGIES
    ]
    rows = [
        {
            "parameters": job.model.parameters,
            "gpus": job.gpus,
            "nodes": job.nodes,
            "stage": strategy.stage,
            "largest": job.model.largest_layer,
            "optimizer": strategy.offload_optimizer,
            "parameters_too": strategy.offload_parameters,
        }
        for job, strategy in cases
    ]
    for (job, strategy), (cpu, gpu, *largest) in zip(cases, ask_deepspeed(ESTIMATORS, rows), strict=True):
        ours = sum(part.step for part in model_states(job, strategy))
        theirs = gpu - (largest[0] if largest else 0)
        if strategy == Strategy(
            stage=3
        ):  # their 18 bytes leave out the gradients in 16 bits, which stage 2's have
            theirs += 2 * job.model.parameters // job.gpus
        assert ours == pytest.approx(theirs, rel=1e-6, abs=64), (job.gpus, strategy)
        if strategy.offload_optimizer:
            assert cpu_memory(job, strategy) == pytest.approx(cpu, abs=1)


READER = """
from types import SimpleNamespace
from deepspeed.runtime import config as reader
reader.dist.get_rank = lambda *_: 0  # as in a process of a group, so that mpu's world size counts
answer = []
for row in given:
    mpu = SimpleNamespace(get_data_parallel_world_size=lambda: row["gpus"])
    try:
        config = reader.DeepSpeedConfig(row["config"], mpu)
        answer.append([config.train_batch_size, config.zero_optimization_stage, config.optimizer_name])
    except Exception as error:
        answer.append(f"{type(error).__name__}: {error}")
"""


def test_deepspeeds_own_reader_takes_what_advise_prints(ask_deepspeed: Ask) -> None:
    choices = []
    for size in (125_000_000, 1_300_000_000, 7_000_000_000, 70_000_000_000, 10**12):
        for gpus in (1, 2, 8, 48):
            for memory in (16, 24, 80):
                for more in ({}, {"dtype": "fp16"}, {"optimizer": "sgd"}, {"optimizer": "adam"}):
                    asked = Job(model=shape(size), gpus=gpus, gpu_memory=memory * 10**9, **more)
                    try:
                        choices.append(choose(asked, Wish()))
                    except EnvbuildError:
                        continue
    assert {choice.strategy for choice in choices} >= {Strategy(stage=stage) for stage in range(4)} | {
        STRATEGIES[-1]
    }
    answers = ask_deepspeed(READER, [{"config": configuration(c), "gpus": c.job.gpus} for c in choices])
    for choice, answer in zip(choices, answers, strict=True):
        assert answer[:2] == [choice.global_batch, choice.strategy.stage], answer


# What the check says that DeepSpeed does with it: the reader refuses, or takes it and says nothing.
REFUSED = (
    {"bf16__enabld": True},
    {"zero_optimization__stge": 1},
    {"zero_optimization__mics_shard_size": 2},
    {"nebula__enabled": True},
    {"fp16__enabled": True},
    {"zero_optimization__stage": 4},
    {"zero_optimization__reduce_bucket_size": 0},
    {"train_batch_size": 50},
    {"train_batch_size": None, "train_micro_batch_size_per_gpu": None},
    {"zero_optimization__offload_param__device": "gpu"},
    {"zero_optimization__compute_grad_norm": False},
    {"zero_optimization__prefetch_bucket_size": 1, "zero_optimization__stage3_prefetch_bucket_size": 1},
    {"bf16__bf16_optimizer_states": True},
    {"gradient_allreduce_op": "sum"},
    {"train_batch_size": "auto"},
)
SILENT = (
    {"zero_optimisation__stage": 3},
    {"stage": 3},
    {"optimiser__type": "AdamW"},
    {"activation_checkpointing__partitioned_activations": True},
    {"gradient_clipping": "auto"},
    {"zero_optimization__stage": 2},
)


def test_what_is_said_to_be_refused_or_ignored_is(ask_deepspeed: Ask) -> None:
    configs = [changed(**change) for change in (*REFUSED, *SILENT)]
    answers = ask_deepspeed(READER, [{"config": config, "gpus": 4} for config in configs])
    for change, config, answer in zip((*REFUSED, *SILENT), configs, answers, strict=True):
        assert isinstance(answer, str) is (change in REFUSED), (change, answer)
        assert any(problem.level is Level.ERROR for problem in found(config, gpus=4)), change


def test_the_known_keys_are_what_deepspeed_asks_for(deepspeed_python: str) -> None:
    done = subprocess.run(
        [
            deepspeed_python,
            str(ROOT / "ci/deepspeed_keys.py"),
            "--check",
            str(ROOT / f"envbuild/advise/deepspeed-{VERSION}.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["agrees"]), done.stderr[-2000:]


MODELS = """
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
fields = DeepSpeedZeroConfig.model_fields
answer = sorted({*fields, *(field.alias for field in fields.values() if field.alias)})
"""


def test_every_field_of_the_zero_section_is_known(ask_deepspeed: Ask) -> None:
    section = known_keys().top.keys["zero_optimization"].section
    assert section is not None
    assert sorted(section.keys) == ask_deepspeed(MODELS, None)
