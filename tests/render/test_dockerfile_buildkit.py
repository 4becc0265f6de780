"""BuildKit reads the rendered files: every instruction and mount, without a base and without a network.

`docker buildx build --check` came with buildx 0.15; `--print=outline` (experimental in 0.13) parses as much and tells
the build arguments and secrets. From nothing instead of the bases, because it would ask a registry for those.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from smallrecipe import ROOT

REAL = sorted((ROOT / "dockerfiles").glob("*.Dockerfile"))
IMAGES = ("BUILD_BASE", "BASE", "MICROMAMBA")

pytestmark = pytest.mark.docker


def outline(path: Path) -> subprocess.CompletedProcess[str]:
    arguments = [word for name in IMAGES for word in ("--build-arg", f"{name}=scratch")]
    return subprocess.run(
        ["docker", "buildx", "build", "--print=outline,format=json", *arguments, "-f", str(path), str(path.parent)],
        env={**os.environ, "BUILDX_EXPERIMENTAL": "1"},
        text=True,
        capture_output=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_it_is_understood(path: Path) -> None:
    done = outline(path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sorted(argument["name"] for argument in told["args"]) == sorted([*IMAGES, "APT_SNAPSHOT"])
    assert sorted(secret["name"] for secret in told["secrets"]) == ["apt", "ca", "channel", "pip"]
    assert not any(secret.get("required") for secret in told["secrets"])


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("type=cache", "type=cash", "unsupported mount type"),
        ("--network=none", "--network=off", "invalid network mode"),
        ("\nUSER ", "\nUSERS ", "unknown instruction: USERS"),
    ],
)
def test_a_mistake_would_be_seen(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    text = REAL[0].read_text()
    assert right in text
    path = tmp_path / "Dockerfile"
    path.write_text(text.replace(right, wrong))
    done = outline(path)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """The health check of a rendered file in an image that has the programs it calls, by its id."""
    text = next(path for path in REAL if path.stem == "pytorch-cuda-v2.7").read_text()
    start = text.index("\nHEALTHCHECK ")
    check = text[start : text.index("\n\n", start)]
    for name in ("/bin/bash", "/bin/sh", "/usr/bin/tr", "/bin/sleep"):
        told = subprocess.run(["ldd", name], check=True, capture_output=True, text=True).stdout
        for file in (name, *re.findall(r"(/lib\S+)", told)):
            target = tmp_path / "root" / file.lstrip("/").replace("usr/bin/", "bin/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            target.chmod(0o755)
    (tmp_path / "Dockerfile").write_text(f"FROM scratch\nENV PATH=/bin\nCOPY root /\n{check}\n")
    build = ["docker", "buildx", "build", "--quiet", str(tmp_path)]
    made = subprocess.run(build, check=True, capture_output=True, text=True).stdout.strip()
    yield made
    subprocess.run(["docker", "rmi", "--force", made], check=True, capture_output=True)


@pytest.mark.parametrize(("name", "expected"), [("train.py", "healthy"), ("envbuild-jupyter", "unhealthy")])
def test_the_engine_finds_a_container_healthy_unless_jupyter_does_not_answer(
    image: str, name: str, expected: str
) -> None:
    options = [
        "--detach",
        "--network=none",
        "--health-interval=1s",
        "--health-start-period=1s",
        "--health-retries=2",
    ]
    script = ["bash", "-c", "while :; do sleep 1; done", name]
    started = subprocess.run(
        ["docker", "run", *options, image, *script], check=True, capture_output=True, text=True
    )
    container = started.stdout.strip()
    try:
        for _ in range(240):
            told = subprocess.run(["docker", "inspect", container], check=True, capture_output=True)
            health = json.loads(told.stdout)[0]["State"]["Health"]
            if health["Status"] != "starting":
                break
            time.sleep(0.25)
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)
    assert health["Status"] == expected, health
    if expected == "unhealthy":
        assert "Connection refused" in health["Log"][-1]["Output"]
