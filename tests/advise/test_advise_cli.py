"""`envbuild advise` as it is typed: a process, its exit code, stdout and stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import envbuild
from envbuild.advise import check_config
from envbuild.engine.gpus import find_driver

REFERENCE = Path(envbuild.__file__).parents[1] / "docs/reference/advise.md"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Advise:
    """Runs ``envbuild advise`` in a folder of its own."""

    folder: Path

    def __call__(self, *arguments: str, given: str | bytes = "") -> Done:
        run = subprocess.run(
            [sys.executable, "-m", "envbuild", "advise", *arguments],
            input=given.encode() if isinstance(given, str) else given,
            capture_output=True,
            check=False,
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "ENVBUILD_STORE": str(self.folder / "store"),
            },
        )
        done = Done(run.returncode, run.stdout.decode(), run.stderr.decode())
        assert "Traceback" not in done.out + done.err, done
        return done

    def fails(self, code: int, id: str, *arguments: str, given: str | bytes = "") -> Done:
        done = self(*arguments, given=given)
        assert done.code == code, done
        assert done.err.count("error[") == 1, done
        assert f"error[{id}]: " in done.err, done
        assert "\n hint: " in done.err, done
        if "--json" not in arguments:
            assert done.out == "", done
        return done


@pytest.fixture
def advise(tmp_path: Path) -> Advise:
    return Advise(tmp_path)


SEVEN = ("--params", "7b", "--gpus", "4", "--gpu-memory", "80")


def test_the_configuration_is_on_stdout_and_the_reasons_are_not(advise: Advise) -> None:
    done = advise(*SEVEN)
    assert done.code == 0
    config = json.loads(done.out)
    assert config["zero_optimization"]["stage"] == 1
    assert (
        config["train_batch_size"]
        == 4 * config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"]
    )
    for text in (
        "ZeRO-1: micro batch 2",
        "as LLaMA 7B",
        "optimizer states",
        "8N/n",
        "Rajbhandari",
        "DDP needs 174.0 GB",
    ):
        assert text in done.err


def test_quiet_is_the_configuration_only(advise: Advise) -> None:
    done = advise(*SEVEN, "--quiet")
    assert done.err == ""
    assert json.loads(done.out) == json.loads(advise(*SEVEN).out)


def test_what_it_prints_passes_its_own_check(advise: Advise) -> None:
    config = advise(*SEVEN).out
    done = advise("--check", "-", "--gpus", "4", given=config)
    assert (done.code, done.out) == (0, "<stdin>: nothing wrong for DeepSpeed 0.19.8\n")
    assert advise.fails(3, "bad-config", "--check", "-", "--gpus", "8", given=config)


def test_json_is_one_object_with_the_documented_keys(advise: Advise) -> None:
    done = advise(*SEVEN, "--json")
    document = json.loads(done.out)
    assert document["config"] == json.loads(advise(*SEVEN).out)
    assert document["memory"]["peak"] == max(document["memory"]["backward"], document["memory"]["step"])
    assert document["memory"]["backward"] == sum(part["backward"] for part in document["memory"]["parts"])
    page = REFERENCE.read_text()
    for key in [
        *document,
        *(f"{n}.{k}" for n in ("model", "memory") for k in document[n]),
        *document["tried"][0],
    ]:
        assert f"`{key}`" in page or f"`{key.split('.')[-1]}`" in page, key


def test_every_option_changes_the_answer(advise: Advise) -> None:
    base = json.loads(advise(*SEVEN, "--json", "-q").out)
    for arguments in (
        ("--sequence", "4096"),
        ("--vocabulary", "128256"),
        ("--hidden", "4608"),
        ("--layers", "40"),
        ("--batch", "1"),
        ("--global-batch", "64"),
        ("--cpu-memory", "512"),
        ("--dtype", "fp16"),
        ("--optimizer", "adam"),
        ("--checkpointing",),
        ("--no-flash-attention",),
    ):
        other = json.loads(advise(*SEVEN, *arguments, "--json", "-q").out)
        assert other != base, arguments


def test_a_model_may_be_given_by_its_shape(advise: Advise) -> None:
    done = advise(
        "--layers",
        "24",
        "--hidden",
        "2048",
        "--vocabulary",
        "50257",
        "--gpus",
        "2",
        "--gpu-memory",
        "a100-40",
    )
    assert done.code == 0
    assert "1.31B parameters: 24 layers" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "id"),
    [
        (("--params", "0", "--gpus", "4", "--gpu-memory", "80"), 2, "model-size"),
        (("--params", "-7b", "--gpus", "4", "--gpu-memory", "80"), 2, "model-size"),
        (("--params", "7 bananas", "--gpus", "4", "--gpu-memory", "80"), 2, "model-size"),
        (("--params", "7b", "--gpus", "-4", "--gpu-memory", "80"), 2, "usage"),
        (("--params", "7b", "--gpus", "0", "--gpu-memory", "80"), 2, "usage"),
        (("--params", "7b", "--gpus", "4", "--gpu-memory", "0"), 2, "memory"),
        (("--params", "7b", "--gpus", "4", "--gpu-memory", "80 apples"), 2, "memory"),
        (("--params", "7b", "--gpus", "4", "--gpu-memory", "a100"), 2, "memory"),
        (("--params", "7b", "--gpus", "4", "--gpu-memory", "80", "--cpu-memory", "much"), 2, "memory"),
        (("--params", "7b", "--gpus", "4", "--gpu-memory", "80", "--sequence", "0"), 2, "usage"),
        (("--params", "7b", "--gpus", "4", "--gpu-memory", "80", "--dtype", "int3"), 2, "usage"),
        (("--params", "7b", "--gpus", "4", "--gpu-memory", "80", "--global-batch", "6"), 2, "global-batch"),
        (
            ("--params", "7b", "--gpus", "4", "--gpu-memory", "80", "--hidden", "64", "--layers", "2"),
            2,
            "shape-and-size",
        ),
        (("--gpus", "4", "--gpu-memory", "80"), 2, "no-model-size"),
        (("--params", "7b", "--gpus", "4", "--gpu-memory", "80", "--hugging-face"), 2, "usage"),
        (("--params", "7b", "--check", "x.json"), 2, "usage"),
        (("--check", "missing.json"), 2, "no-such-file"),
        (("--params", "7b", "--gpus", "1", "--gpu-memory", "1"), 3, "does-not-fit"),
    ],
)
def test_bad_input_is_one_error(advise: Advise, arguments: tuple[str, ...], code: int, id: str) -> None:
    advise.fails(code, id, *arguments)


@pytest.mark.skipif(bool(find_driver().gpus), reason="this machine has GPUs")
def test_without_gpus_here_they_must_be_given(advise: Advise) -> None:
    assert "--gpus and --gpu-memory must be given" in advise.fails(2, "no-gpus-here", "--params", "7b").err
    assert "so --gpu-memory must" in advise.fails(2, "no-gpus-here", "--params", "7b", "--gpus", "2").err


BAD = '{\n  "train_batch_size": 8,\n  "zero_optimisation": {"stage": 3},\n  "fp16": {"enabled": "yes"},\n}\n'


def test_everything_wrong_in_a_file_is_one_error_of_many_lines(advise: Advise, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(BAD)
    done = advise.fails(3, "bad-config", "--check", "ds.json")
    assert "3 things are wrong in ds.json" in done.err
    assert "ds.json:3:3: zero_optimisation: there is no such key" in done.err
    assert "did you mean 'zero_optimization'?" in done.err
    assert 'ds.json:4:23: fp16.enabled: the string "yes", where true or false belongs' in done.err
    assert "ds.json:4:29: a comma before '}'" in done.err


def test_the_problems_are_in_the_json_too(advise: Advise) -> None:
    done = advise.fails(3, "bad-config", "--check", "-", "--json", given=BAD)
    document = json.loads(done.out)
    assert document["error"]["id"] == "bad-config"
    assert document["problems"] == [problem.to_dict() for problem in check_config(BAD)]
    assert document["problems"][0]["line"] == 3


def test_warnings_do_not_fail(advise: Advise) -> None:
    config = {
        "train_batch_size": 8,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    }
    done = advise("--check", "-", given=json.dumps(config))
    assert done.code == 0
    assert "warning: <stdin>:1:" in done.err
    assert "DeepSpeedCPUAdam" in done.err
    assert (
        json.loads(advise("--check", "-", "--json", given=json.dumps(config)).out)["problems"][0]["level"]
        == "warning"
    )


def test_auto_is_explained(advise: Advise) -> None:
    config = '{"train_micro_batch_size_per_gpu": "auto"}'
    assert "Hugging Face integration" in advise.fails(3, "bad-config", "--check", "-", given=config).err
    assert advise("--check", "-", "--hugging-face", given=config).code == 0


@pytest.mark.parametrize(
    ("given", "id", "says"),
    [
        ("", "bad-config", "the file is empty"),
        ("[1]", "bad-config", "not an object"),
        ("{'a': 1}", "bad-config", "<stdin>:1:2: a key in double quotes"),
        (b"\xff\xfe{}", "not-text", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_configuration(advise: Advise, given: str | bytes, id: str, says: str) -> None:
    assert says in advise.fails(3, id, "--check", "-", given=given).err


def test_a_folder_is_no_configuration(advise: Advise, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert advise.fails(2, "usage", "--check", "folder")
