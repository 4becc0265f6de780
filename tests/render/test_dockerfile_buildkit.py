"""BuildKit reads the rendered files: every instruction and mount, without a base and without a network.

`docker buildx build --check` came with buildx 0.15; `--print=outline` (experimental in 0.13) parses as much and tells
the build arguments and secrets. From nothing instead of the bases, because it would ask a registry for those.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from dockerfilesteps import health
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
    assert sorted(argument["name"] for argument in told["args"]) == sorted(IMAGES)
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


def test_the_health_check_arrives_as_it_is_written(tmp_path: Path) -> None:
    """Backslashes and quotes: what the engine runs is what the steps' tests run."""
    text = next(path for path in REAL if path.stem == "pytorch-cuda-v2.7").read_text()
    shell = next(line for line in text.splitlines() if line.startswith("SHELL "))
    start = text.index("\nHEALTHCHECK ")
    check = text[start : text.index("\nEXPOSE", start)]
    (tmp_path / "Dockerfile").write_text(f"FROM scratch\n{shell}{check}\n")
    build = ["docker", "buildx", "build", "--quiet", str(tmp_path)]
    image = subprocess.run(build, check=True, capture_output=True, text=True).stdout.strip()
    try:
        inspected = subprocess.run(["docker", "inspect", image], check=True, capture_output=True)
        config = json.loads(inspected.stdout)[0]["Config"]
    finally:
        subprocess.run(["docker", "rmi", image], check=True, capture_output=True)
    kind, script = config["Healthcheck"]["Test"]
    assert (kind, script.split()) == ("CMD-SHELL", (health(text) or "").split())
    assert config["Shell"] == ["/bin/bash", "-euo", "pipefail", "-c"]
