"""The doctor in real containers, started in ways that hurt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programsimage import Image

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.timeout(600)]


def rows(image: Image, *options: str) -> tuple[int, dict[str, dict]]:
    """Exit status and the rows by id."""
    done = image.run(["envbuild-doctor", "--json", "--no-torch"], *options)
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert document["fits"] == (done.returncode == 0)
    return done.returncode, {row["id"]: row for row in document["findings"]}


def test_a_plain_docker_run_is_told_what_to_add(image: Image) -> None:
    done = image.run(["envbuild-doctor", "--no-torch"])
    assert done.returncode == 1  # no test machine's engine hands out GPUs unasked
    assert "does not fit" in done.stdout
    assert "add to docker run: --gpus all --ipc=host" in done.stdout


def test_shared_memory(image: Image) -> None:
    _, small = rows(image)
    assert small["shared-memory"]["facts"]["bytes"] == 64 << 20
    assert small["shared-memory"]["state"] == "warning"
    _, large = rows(image, "--shm-size=2g")
    assert large["shared-memory"]["state"] == "good"
    assert large["ipc"]["facts"] == {"host": False}
    _, host = rows(image, "--ipc=host")
    assert host["ipc"]["facts"] == {"host": True}


def test_limits(image: Image) -> None:
    options = ("--ulimit", "nofile=512:600", "--ulimit", "memlock=65536:65536", "--pids-limit", "100")
    _, seen = rows(image, *options, "--cpus", "0.5", "--memory", "512m")
    assert seen["open-files"]["facts"] == {"soft": 512, "hard": 600}
    assert seen["locked-memory"]["facts"] == {"soft": 65536, "hard": 65536}
    assert seen["processes"]["facts"]["limit"] == 100
    assert seen["processors"]["facts"]["quota"] == 0.5
    assert seen["memory"]["facts"]["limit"] == 512 << 20
    states = {
        seen[name]["state"] for name in ("open-files", "locked-memory", "processes", "processors", "memory")
    }
    assert states == {"warning"}


def test_capabilities_for_this_nccl(image: Image) -> None:
    assert rows(image)[1]["capabilities"]["state"] == "good"
    _, without = rows(image, "-e", "NCCL_CUMEM_HOST_ENABLE=1")
    assert without["capabilities"]["flags"] == ["--cap-add SYS_NICE"]
    _, able = rows(image, "-e", "NCCL_CUMEM_HOST_ENABLE=1", "--cap-add", "SYS_NICE")
    assert able["capabilities"]["state"] == "good"


def test_variables(image: Image) -> None:
    _, seen = rows(
        image, "-e", "NCCL_SOCKET_IFNAME=ib7", "-e", "CUDA_VISIBLE_DEVICES=-1", "-e", "NCCL_P2P_DISABLE=1"
    )
    told = seen["variables"]
    assert told["state"] == "problem"
    assert all(
        word in told["detail"] for word in ("ib7", "CUDA_VISIBLE_DEVICES", "NCCL_P2P_DISABLE=1", "eth0")
    )


@pytest.mark.parametrize("user", ["envbuild", "12345:12345"])
def test_any_user_in_a_container_that_writes_nothing(image: Image, user: str) -> None:
    code, seen = rows(image, "--user", user, "--read-only", "--network", "none")
    assert code == 1
    assert seen["disk"]["state"] == "warning"
    assert "/tmp cannot be written" in seen["disk"]["detail"]
    assert seen["network"]["detail"].startswith("loopback only")


def test_a_broken_environment_does_not_break_it(image: Image, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('a json of somebody else')\n")
    (tmp_path / "sitecustomize.py").write_text("raise RuntimeError('a site of somebody else')\n")
    broken = (
        "-v",
        f"{tmp_path}:/opt/venv:ro",
        "-e",
        "PYTHONPATH=/opt/venv",
        "-e",
        "PYTHONHOME=/none",
        "-w",
        "/opt/venv",
    )
    done = image.run(["envbuild-doctor"], *broken)
    assert done.returncode == 1
    assert "does not fit" in done.stdout
    assert "Traceback" not in done.stderr


def test_it_says_which_image_it_is_in(image: Image) -> None:
    document = json.loads(image.run(["envbuild-doctor", "--json", "--no-torch"]).stdout)
    assert document["image"]["cuda"]
    assert ":" in document["image"]["ref"]
    damaged = image.run(["sh", "-c", "echo '{' >/etc/envbuild/image.json; envbuild-doctor --json --no-torch"])
    assert json.loads(damaged.stdout)["image"] == {}


def test_usage(image: Image) -> None:
    done = image.run(["envbuild-doctor", "--help"])
    assert (done.returncode, "exit status" in done.stdout) == (0, True)
    wrong = image.run(["envbuild-doctor", "--jsn"])
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
