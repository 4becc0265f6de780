"""pytorch-cuda:v2.7 by Docker, with its real wheels, on bases of envbuild's own layers: compiled, checked, smoked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from condachannel import CHANNEL
from dockerstandin import docker, inspected, large_cache_removed, own_images
from realdocker import NAME, REF, make_real_bases, make_real_recipe
from realimage import ROOT, Real

from envbuild.sandbox import Sandbox
from envbuild.store import Store

pytestmark = [pytest.mark.real, pytest.mark.docker, pytest.mark.network]
CANDIDATE = f"{REF}-nvidia-candidate"
STALE = """
import importlib.util, os, struct
seen = stale = 0
for root in ("/opt/venv/lib", "/opt/conda/lib"):
    for folder, _, files in os.walk(root):
        for file in files:
            source = os.path.join(folder, file)
            code = importlib.util.cache_from_source(source) if file.endswith(".py") else ""
            if os.path.exists(code):
                status = os.stat(source)
                with open(code, "rb") as stream:
                    time, size = struct.unpack("<II", stream.read(16)[8:])
                seen, stale = seen + 1, stale + ((time, size) != (int(status.st_mtime), status.st_size))
print(seen, stale)
"""


@dataclass(frozen=True)
class Built:
    """What `envbuild image --json` printed, and how to call envbuild on it."""

    value: dict[str, Any]
    environ: dict[str, str]
    places: list[str]
    options: tuple[str, ...] = ()

    def image(self) -> dict[str, Any]:
        done = self.envbuild("image", REF, *self.options)
        assert done.returncode == 0, done.stdout
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def envbuild(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "envbuild", *arguments, *self.places]
        return subprocess.run(
            command, check=False, cwd=ROOT, env=self.environ, stdout=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="module")
def built(real: Real, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """One build without a network, on what the store has of the image that envbuild built itself."""
    folder = tmp_path_factory.mktemp("docker")
    recipes, channel = make_real_recipe(folder)
    call = Built(
        value={},
        environ={**os.environ, "ENVBUILD_CONDA_CHANNELS": f"{CHANNEL}={channel}"},
        places=["--store", str(real.store), "--recipes", str(recipes)],
    )
    with own_images(f"{NAME}-", CANDIDATE), large_cache_removed():
        with Store.open(real.store) as store:
            bases = make_real_bases(store, Sandbox.detect(), folder)
        options = ("--builder", "docker", "--base", "nvidia", *bases.options(), "--network", "none", "--json")
        call = replace(call, options=options)
        yield replace(call, value=call.image())


def test_it_is_what_the_engine_has(built: Built) -> None:
    print(json.dumps(built.value["seconds"]), built.value["size"])
    assert built.value["docker"]["steps"] > 0
    assert built.value["tags"] == [CANDIDATE]
    assert built.value["config"] == inspected(CANDIDATE)["Id"]
    assert 5_500_000_000 < built.value["size"] < 7_000_000_000


def test_a_second_build_finds_everything_cached(built: Built) -> None:
    again = built.image()
    assert again["config"] == built.value["config"]
    assert again["bytes_fetched"] == 0
    assert again["docker"]["steps"] < built.value["docker"]["steps"]
    assert again["docker"]["cached"] > built.value["docker"]["cached"]


def test_the_suite_s_part_without_gpus_passes_in_it(built: Built, tmp_path: Path) -> None:
    """Every package is the locked one with its hashes, CUDA's libraries are loaded once, the operator is CUDA's."""
    report = tmp_path / "verdict.json"
    done = built.envbuild("smoke", f"{REF}-nvidia", "--gpus", "0", "--report", str(report), "--json")
    assert done.returncode == 0, done.stdout
    verdict = json.loads(done.stdout)["verdict"]
    assert verdict["result"] == "candidate"
    assert verdict["subject"]["config"] == built.value["config"]
    status = {check["id"]: check["status"] for check in verdict["checks"]}
    for check in ("versions", "imports", "loaded", "operator-file", "gloo-all-reduce", "cpp-extension"):
        assert status[check] == "passed", check
    refused = built.envbuild("promote", f"{REF}-nvidia", "--verdict", str(report))
    assert refused.returncode == 6, refused.stdout


def test_torch_and_deepspeed_import_from_byte_code_that_is_not_stale(built: Built) -> None:
    code = "import torch, deepspeed; print(torch.__version__, deepspeed.__version__)"
    out = docker("run", "--rm", "--network", "none", CANDIDATE, "python", "-c", code)
    assert out.split()[-2:] == ["2.7.1+cu126", "0.19.8"]
    seen, stale = docker("run", "--rm", "--network", "none", CANDIDATE, "python", "-c", STALE).split()
    assert int(seen) > 9000
    assert stale == "0"


def test_envbuild_s_programs_are_in_it(built: Built) -> None:
    for program in ("doctor", "jupyter", "sshd"):
        out = docker("run", "--rm", "--network", "none", CANDIDATE, f"envbuild-{program}", "--help")
        assert f"envbuild-{program}" in out
