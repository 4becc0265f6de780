"""The page of commands is whole, and the configurations differ in what they are about only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import seedtable

ROOT = Path(__file__).parents[2]


def test_every_row_is_read_and_says_how_it_was_tested():
    lines = seedtable.read(seedtable.PAGE.read_text())
    rows = [row for row in seedtable.PAGE.read_text().splitlines() if row.startswith("| `")]
    assert len(lines) == len(rows) > 30
    assert {word for line in lines for word in line.tested} == set(seedtable.TESTED)
    for line in lines:
        assert line.works or line.remark, f"{line.command}: it does not work, and nothing is said"


@pytest.mark.parametrize(
    "row",
    [
        "| `ls` | maybe | | CPU |",
        "| `ls` | yes | | by eye |",
        "| `ls` | yes | | no |",
        "| `ls` | yes | CPU |",
    ],
)
def test_a_row_that_does_not_fit_is_refused(row):
    with pytest.raises(ValueError, match="ls"):
        seedtable.read(row)


def test_scripts_and_configs_that_the_page_names_are_there():
    for line in seedtable.read(seedtable.PAGE.read_text()):
        for word in line.command.split():
            if word.endswith((".py", ".json")) and word != "auto.json" and "zero_to_fp32" not in word:
                found = [ROOT / "examples" / folder / word for folder in (".", "deepspeed")]
                assert any(path.is_file() for path in found), line.command


def test_the_offload_config_is_the_other_one_with_offload():
    folder = ROOT / "examples/deepspeed"
    plain = json.loads((folder / "ds_config.json").read_text())
    offload = json.loads((folder / "ds_config_offload.json").read_text())
    assert plain["zero_optimization"]["stage"] == 3
    for key in ("offload_optimizer", "offload_param"):
        assert offload["zero_optimization"].pop(key)["device"] == "cpu"
    assert offload == plain


def test_the_script_refuses_a_machine_without_gpus_and_wrong_words(tmp_path):
    script = ROOT / "tests/gpu/examples_on_gpus.sh"
    (tmp_path / "python").write_text("#!/bin/sh\necho 1\n")
    (tmp_path / "python").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "two GPUs are needed; torch sees: 1\n"
    wrong = subprocess.run([script, "--gpu"], env=env, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


def test_the_script_lists_what_the_page_says():
    table = ROOT / "tests/seedtable.py"
    said = subprocess.run(
        [sys.executable, table, "2 GPUs"], capture_output=True, text=True, check=True
    ).stdout
    assert len(said.splitlines()) == len(seedtable.lines("2 GPUs")) > 15
    assert "deepspeed\tyes\tdeepspeed --num_gpus=2 train.py --deepspeed_config ds_config_offload.json" in said
