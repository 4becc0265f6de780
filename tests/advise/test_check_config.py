"""What `envbuild advise --check` finds in a DeepSpeed configuration, and what it lets pass."""

from __future__ import annotations

import json
from typing import Any

import pytest

from envbuild.advise import Level, Problem, check_config
from envbuild.advise.known import known_keys

GOOD: dict[str, Any] = {
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 4,
    "gradient_clipping": 1.0,
    "bf16": {"enabled": True},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 1e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1},
    },
    "scheduler": {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": 0, "warmup_max_lr": 1e-4, "warmup_num_steps": 100},
    },
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "reduce_bucket_size": 5e8,
        "stage3_max_live_parameters": 1e9,
        "sub_group_size": 1e9,
        "offload_param": {"device": "none"},
    },
    "wall_clock_breakdown": False,
    "steps_per_print": 10,
}


def changed(**changes: Any) -> dict[str, Any]:
    """GOOD with values set by ``a__b``; None deletes."""
    config = json.loads(json.dumps(GOOD))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return config


def found(config: object, **options: Any) -> tuple[Problem, ...]:
    return check_config(config if isinstance(config, str) else json.dumps(config, indent=1), **options)


def told(config: object, **options: Any) -> set[tuple[str, str]]:
    return {(problem.id, problem.path) for problem in found(config, **options)}


def test_a_good_configuration_has_no_problems() -> None:
    assert found(GOOD) == ()
    assert found(GOOD, gpus=4) == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"zero_optimisation__stage": 3}, ("unknown-key", "zero_optimisation")),
        (
            {"zero_optimization__stage3_prefech_bucket_size": 5},
            ("unknown-key", "zero_optimization.stage3_prefech_bucket_size"),
        ),
        ({"bf16__enable": True}, ("unknown-key", "bf16.enable")),
        ({"stage": 3}, ("unknown-key", "stage")),
        ({"optimizer__params__learning_rate": 1}, ("unknown-key", "optimizer.params.learning_rate")),
        ({"optimizer__params__max_grad_norm": 1.0}, ("unknown-key", "optimizer.params.max_grad_norm")),
        ({"scheduler__params__warmup_steps": 1}, ("unknown-key", "scheduler.params.warmup_steps")),
        ({"nebula__enabled": True}, ("removed-key", "nebula")),
        ({"zero_optimization__mics_shard_size": 2}, ("removed-key", "zero_optimization.mics_shard_size")),
        ({"zero_optimization__stage": "3"}, ("wrong-type", "zero_optimization.stage")),
        ({"zero_optimization__overlap_comm": 1}, ("wrong-type", "zero_optimization.overlap_comm")),
        ({"zero_optimization__sub_group_size": 1.5}, ("wrong-type", "zero_optimization.sub_group_size")),
        ({"zero_optimization": [3]}, ("wrong-type", "zero_optimization")),
        ({"bf16": True}, ("wrong-type", "bf16")),
        ({"gradient_clipping": "1.0"}, ("wrong-type", "gradient_clipping")),
        ({"train_batch_size": True}, ("wrong-type", "train_batch_size")),
        ({"zero_optimization__stage": 4}, ("wrong-value", "zero_optimization.stage")),
        (
            {"zero_optimization__reduce_bucket_size": 0},
            ("wrong-value", "zero_optimization.reduce_bucket_size"),
        ),
        (
            {"zero_optimization__offload_param__device": "gpu"},
            ("wrong-value", "zero_optimization.offload_param.device"),
        ),
        ({"train_micro_batch_size_per_gpu": 0}, ("wrong-value", "train_micro_batch_size_per_gpu")),
        ({"train_micro_batch_size_per_gpu": -2}, ("wrong-value", "train_micro_batch_size_per_gpu")),
        ({"train_batch_size": 50}, ("batch-sizes", "train_batch_size")),
        ({"train_batch_size": None, "train_micro_batch_size_per_gpu": None}, ("no-batch-size", "")),
        ({"fp16__enabled": True}, ("fp16-and-bf16", "bf16")),
        ({"bfloat16__enabled": True}, ("two-spellings", "bfloat16")),
        ({"zero_optimization__stage": 2}, ("wrong-stage", "zero_optimization.stage3_max_live_parameters")),
        (
            {"zero_optimization__stage": 2, "zero_optimization__offload_param__device": "cpu"},
            ("wrong-stage", "zero_optimization.offload_param"),
        ),
        (
            {"zero_optimization__stage": 0, "zero_optimization__offload_optimizer__device": "cpu"},
            ("wrong-stage", "zero_optimization.offload_optimizer"),
        ),
        (
            {"zero_optimization__offload_param__device": "nvme"},
            ("needs-key", "zero_optimization.offload_param"),
        ),
        (
            {"zero_optimization__compute_grad_norm": False},
            ("wrong-stage", "zero_optimization.compute_grad_norm"),
        ),
        ({"gradient_allreduce_op": "sum"}, ("wrong-stage", "gradient_allreduce_op")),
        ({"bf16__bf16_optimizer_states": True}, ("needs-key", "bf16.bf16_optimizer_states")),
        ({"optimizer__type": "SGD", "optimizer__params": {}}, ("needs-key", "optimizer.type")),
        ({"optimizer__type": "AdmW"}, ("optimizer", "optimizer.type")),
        ({"optimizer__type": None}, ("needs-key", "optimizer")),
        ({"scheduler__type": "WarmUpLR"}, ("scheduler", "scheduler.type")),
        (
            {
                "zero_optimization__prefetch_bucket_size": 1,
                "zero_optimization__stage3_prefetch_bucket_size": 1,
            },
            ("two-spellings", "zero_optimization.stage3_prefetch_bucket_size"),
        ),
        (
            {"zero_optimization__cpu_offload": True, "zero_optimization__offload_optimizer__device": "cpu"},
            ("two-spellings", "zero_optimization.cpu_offload"),
        ),
        ({"gradient_clipping": "auto"}, ("auto", "gradient_clipping")),
        ({"optimizer__params__lr": "auto"}, ("auto", "optimizer.params.lr")),
        ({"flops_profiler__enabled": "auto"}, ("auto", "flops_profiler.enabled")),
    ],
    ids=lambda value: value[1] + "-" + value[0] if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_found(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    problems = [problem for problem in found(changed(**changes)) if problem.level is Level.ERROR]
    assert expected in {(problem.id, problem.path) for problem in problems}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"zero_optimization__offload_optimizer__device": "cpu"}, ("cpu-adam", "optimizer.type")),
        ({"optimizer__params__torch_adam": True}, ("torch-adam", "optimizer.params.torch_adam")),
        ({"optimizer__type": "Adam"}, ("adam-w-mode", "optimizer.type")),
        ({"zero_optimization": True}, ("deprecated-key", "zero_optimization")),
        ({"zero_optimization__cpu_offload": True}, ("deprecated-key", "zero_optimization.cpu_offload")),
        (
            {"optimizer__type": "Shampoo", "optimizer__params": {}, "zero_allow_untested_optimizer": True},
            ("optimizer", "optimizer.type"),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_worth_knowing_is_a_warning(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    problems = found(changed(**changes))
    assert expected in {(problem.id, problem.path) for problem in problems}
    assert {problem.level for problem in problems} == {Level.WARNING}


def test_the_nearest_key_and_the_right_section_are_named() -> None:
    fixes = {problem.path: problem.fix for problem in found(changed(zero_optimisation={}, stage=3, lr=1))}
    assert fixes["zero_optimisation"] == "did you mean 'zero_optimization'?"
    assert fixes["stage"] == "it belongs in zero_optimization"
    assert fixes["lr"].startswith("known here: ")


def test_what_deepspeed_does_with_an_unknown_key_is_said() -> None:
    messages = {
        problem.path: problem.message for problem in found(changed(fp17={}, zero_optimization__stge=3))
    }
    assert "ignores it silently" in messages["fp17"]
    assert "refuses it" in messages["zero_optimization.stge"]


def test_places_are_lines_and_columns() -> None:
    (problem,) = found('{\n  "train_batch_size": 4,\n  "bf16": {\n    "enabld": true\n  }\n}')
    assert (problem.line, problem.column) == (4, 5)
    assert problem.text("ds.json").startswith("ds.json:4:5: bf16.enabld: ")


def test_every_problem_is_told_at_once() -> None:
    config = changed(nebula={}, stge=3, fp16__enabled=True, train_batch_size=50, gradient_clipping="x")
    assert len(found(config)) == 5


@pytest.mark.parametrize(
    ("total", "gpus", "wrong"), [(64, 4, False), (64, 2, True), (64, 8, True), (64, None, False)]
)
def test_batch_sizes_against_the_gpus(total: int, gpus: int | None, wrong: bool) -> None:
    assert bool(found(changed(train_batch_size=total), gpus=gpus)) is wrong


def test_two_of_three_batch_sizes_are_enough() -> None:
    assert found(changed(gradient_accumulation_steps=None)) == ()
    assert found(changed(train_batch_size=None), gpus=3) == ()
    assert told(changed(gradient_accumulation_steps=None), gpus=3) == {("batch-sizes", "train_batch_size")}


def test_hugging_face_fills_in_auto() -> None:
    keys = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16__enabled": "auto",
        "fp16__enabled": "auto",
        "optimizer__params__lr": "auto",
        "zero_optimization__reduce_bucket_size": "auto",
    }
    assert len(found(changed(**keys))) == 8
    assert found(changed(**keys), hugging_face=True) == ()
    # but not everywhere
    assert told(changed(zero_optimization__stage="auto"), hugging_face=True) == {
        ("auto", "zero_optimization.stage")
    }


def test_auto_is_deepspeeds_own_in_some_places() -> None:
    config = changed(
        data_types__keep_in_fp32_modules="auto", zero_optimization__zenflow__select_strategy="auto"
    )
    assert found(config) == ()


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("", 1, 1, "the file is empty"),
        (" \n\n ", 3, 2, "the file is empty"),
        ("{", 1, 2, "a key in double quotes is missing before the end of the file"),
        ('{"train_batch_size": 4', 1, 23, "a comma or '}' is missing"),
        ('{"train_batch_size" 4}', 1, 21, "a colon is missing"),
        ("{'train_batch_size': 4}", 1, 2, "a key in double quotes"),
        ('{"train_batch_size": True}', 1, 22, "write true"),
        ('{"train_batch_size": None}', 1, 22, "write null"),
        ('{"train_batch_size": NaN}', 1, 22, "write a number"),
        ('{"train_batch_size": 04}', 1, 22, "not a number"),
        ('{"train_batch_size": 1e999}', 1, 22, "too large"),
        ('{"train_batch_size": 4} {', 1, 25, "after the end"),
        ('{"optimizer": {"type": "Ad\nam"}}', 1, 27, "a string that is not right"),
        ('{"a": ' * 80, 1, 391, "64 deep"),
        ("/* no end", 1, 1, "a value is missing"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(text: str, line: int, column: int, says: str) -> None:
    (problem,) = found(text)
    assert (problem.id, problem.line, problem.column) == ("not-json", line, column), problem
    assert says in problem.message


def test_comments_and_trailing_commas_and_duplicates_are_all_told() -> None:
    text = """{
  // micro batch
  "train_batch_size": 4, # all
  "train_batch_size": 8,
  "bf16": {"enabled": true,}, /* two
  lines */
  "betas": [1, 2,],
}"""
    problems = [problem for problem in found(text) if problem.id == "not-json"]
    assert [(problem.line, problem.message.split(":")[0].split(" ")[1]) for problem in problems] == [
        (2, "comment"),
        (3, "comment"),
        (4, "key"),
        (5, "comma"),
        (5, "comment"),
        (7, "comma"),
        (7, "comma"),
    ]


@pytest.mark.parametrize(
    ("text", "what"), [("[]", "an array"), ('"x"', 'the string "x"'), ("3", "number"), ("null", "null")]
)
def test_what_is_no_object_is_refused(text: str, what: str) -> None:
    (problem,) = found(text)
    assert problem.id == "not-an-object"
    assert what in problem.message


def test_a_byte_order_mark_is_no_matter() -> None:
    assert found("\ufeff" + json.dumps(GOOD)) == ()


def test_what_is_much_too_large_is_not_read() -> None:
    (problem,) = found(" " * 1_000_001)
    assert problem.id == "too-large"


def test_the_known_keys_are_those_of_the_release_that_recipes_have() -> None:
    known = known_keys()
    assert known.version == "0.19.8"
    assert not known.top.strict
    assert known.top.keys["zero_optimization"].section is not None
    assert known.top.keys["zero_optimization"].section.strict
    assert len(known.top.keys) > 40
