"""The commands of docs/seed-commands.md, run as they stand in the real image, and two nodes as two containers."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import seedtable
from realimage import REF, ROOT, Real

pytestmark = [pytest.mark.real, pytest.mark.docker]
IMAGE = f"{REF}-candidate"
DOCKER = "/usr/bin/docker"


@pytest.fixture(scope="module")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What DeepSpeed compiles for CPUs, kept between containers of this module: about a minute each."""
    return tmp_path_factory.mktemp("extensions")


def test_every_line_for_the_cpu(real: Real, extensions: Path) -> None:
    command = [DOCKER, "run", "--rm", "--network=none", "--ipc=host", "-v", f"{ROOT}:/repo:ro"]
    command += ["-v", f"{extensions}:/root/.cache/torch_extensions", IMAGE]
    done = subprocess.run(
        [*command, "bash", "/repo/tests/gpu/examples_on_gpus.sh", "--cpu"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith(f"passed {len(seedtable.lines('CPU'))}, failed 0,"), last


@pytest.mark.parametrize("line", seedtable.lines("docker"), ids=lambda line: line.command)
def test_a_line_for_docker(real: Real, line: seedtable.Line, tmp_path: Path) -> None:
    """Without GPUs and a terminal, and with --cpu where the example wants it: all else as it stands."""
    shutil.copytree(ROOT / "examples", tmp_path / "work")
    command = re.sub(r" (-it|--gpus '[^']*'|--gpus \S+|--ulimit memlock=-1)(?= )", "", line.command)
    assert "gpus" not in command
    command = command.replace(" IMAGE ", f" {IMAGE} ").replace("docker ", f"{DOCKER} ", 1)
    if "ddp_resnet50.py" in command:
        command += " --cpu --steps 2 --batch 2 --image-size 32 --workers 1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path / "work", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout or "loss" in done.stdout or re.search(r"\d+\.\d+", done.stdout)


def test_two_nodes_are_two_containers(real: Real, extensions: Path, tmp_path: Path) -> None:
    """DeepSpeed's launcher, pdsh, sshd with keys, a rank in each container, and nothing is left behind."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = tmp_path / "examples/two-nodes/two_nodes.sh"
    volume = f"-v {shlex.quote(str(extensions))}:/root/.cache/torch_extensions"
    env = {**os.environ, "IMAGE": IMAGE, "DOCKER_OPTIONS": volume, "PATH": f"/usr/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        [script, "--cpu", "--steps", "3"], env=env, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "node1: 2 process(es) on cpu" in said
    assert "nnodes=2, num_local_procs=1, node_rank=1" in said
    assert re.search(r"node1: step +3  loss", said)
    for what in (["ps", "--all"], ["network", "ls"], ["volume", "ls"]):
        left = subprocess.run([DOCKER, *what], capture_output=True, text=True, check=True).stdout
        assert "two-nodes-" not in left
