"""The examples that need no torchvision, by their own command lines on gloo; the rest runs in the real image."""

from __future__ import annotations

import json
import re
import socket

import pytest

pytestmark = pytest.mark.torch

SMALL = ("--cpu", "--max-bytes", "1M", "--repeats", "2", "--width", "64", "--layers", "1", "--batch", "1")
TRAIN = ("train.py", "--deepspeed_config", "ds_config.json")


def losses(text):
    return [float(number) for number in re.findall(r"^step .*?loss ([0-9.]+)", text, re.MULTILINE)]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize(
    ("folder", "command"),
    [(".", ["benchmark_comm.py"]), ("deepspeed", [*TRAIN])],
)
def test_without_a_gpu_there_is_one_line_and_no_fall_back(workspace, folder, command):
    done = workspace.run("python", *command, folder=folder)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "torch sees no GPU. Start the container with --gpus all, or ask for the CPU with --cpu."
    )
    assert done.stdout == ""


def test_the_benchmark_counts_as_nccl_tests_does(workspace):
    done = workspace.run("python", "benchmark_comm.py", *SMALL, "--processes", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["processes"], report["backend"]) == (2, "gloo")
    rows = {row["collective"]: row for row in report["collectives"]}
    assert set(rows) == {"all_reduce", "all_gather", "reduce_scatter", "broadcast"}
    for name, row in rows.items():
        assert row["bytes"] == 1 << 20
        assert row["algbw"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        # Two processes: 2(n-1)/n is 1, (n-1)/n is a half.
        factor = 1 if name in {"all_reduce", "broadcast"} else 0.5
        assert row["busbw"] == pytest.approx(row["algbw"] * factor)
    parts = report["step"]["seconds"]
    assert list(parts) == ["forward", "backward", "optimizer", "all_reduce", "step", "not_hidden"]
    computing = parts["forward"] + parts["backward"] + parts["optimizer"]
    assert parts["not_hidden"] == pytest.approx(max(0, parts["step"] - computing))
    assert "not_hidden" in done.stderr
    assert "busbw GB/s" in done.stderr


@pytest.mark.parametrize("size", ["0", "1T", "-5", "many"])
def test_a_size_that_is_none_is_refused(workspace, size):
    done = workspace.run("python", "benchmark_comm.py", "--cpu", f"--max-bytes={size}")
    assert done.returncode == 2
    assert "no size; 1024, 8K, 256M and 1G are" in done.stderr


@pytest.mark.timeout(600)
def test_zero_3_trains_saves_resumes_and_loads_into_plain_torch(workspace):
    launch = ("deepspeed", "--num_gpus=2", "--master_port", free_port())
    first = workspace.run(*launch, *TRAIN, "--cpu", "--steps", "10", folder="deepspeed")
    assert first.returncode == 0, first.stdout + first.stderr
    seen = losses(first.stdout)
    assert seen[-1] < seen[0] - 0.2
    assert "2 process(es) on cpu" in first.stdout
    assert "samples/s" in first.stdout

    merged = workspace.run("python", "checkpoint/zero_to_fp32.py", "checkpoint", "merged", folder="deepspeed")
    assert merged.returncode == 0, merged.stderr
    for source in ("merged", "checkpoint"):
        loaded = workspace.run("python", "load_merged.py", source, folder="deepspeed")
        assert loaded.returncode == 0, loaded.stderr
        assert "float32 weights, loss" in loaded.stdout

    # Other weights under the same names are noticed.
    spoil = "import torch; f = 'merged/pytorch_model.bin'; w = torch.load(f); w['head.weight'] *= -3; torch.save(w, f)"
    spoil = f"import torch; torch.set_grad_enabled(False); {spoil}"
    assert workspace.run("python", "-c", spoil, folder="deepspeed").returncode == 0
    spoilt = workspace.run("python", "load_merged.py", "merged", folder="deepspeed")
    assert spoilt.returncode == 1
    assert "not the weights that were trained" in spoilt.stderr

    again = workspace.run(*launch, *TRAIN, "--cpu", "--steps", "2", "--resume", folder="deepspeed")
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search(r"^step +11 ", again.stdout, re.MULTILINE)
    assert losses(again.stdout)[0] < seen[0] - 0.2


def test_the_same_seed_gives_the_same_losses(workspace):
    runs = []
    for number in range(2):
        launch = ("deepspeed", "--num_gpus=1", "--master_port", free_port(), *TRAIN, "--cpu", "--steps", "2")
        runs.append(workspace.run(*launch, "--seed", "3", "--checkpoint", f"c{number}", folder="deepspeed"))
        assert runs[-1].returncode == 0, runs[-1].stdout + runs[-1].stderr
    same, again = (losses(run.stdout) for run in runs)
    assert same == again
    assert len(set(same)) == 2


def test_no_checkpoint_to_resume_from_is_one_line(workspace):
    done = workspace.run(
        "deepspeed",
        "--num_gpus=1",
        "--master_port",
        free_port(),
        *TRAIN,
        "--cpu",
        "--resume",
        folder="deepspeed",
    )
    assert done.returncode == 1
    assert "checkpoint holds no checkpoint: leave --resume out" in done.stdout + done.stderr
    missing = workspace.run("python", "load_merged.py", "merged", folder="deepspeed")
    assert missing.returncode == 1
    assert missing.stderr.startswith("merged is no folder: first python checkpoint/zero_to_fp32.py")
