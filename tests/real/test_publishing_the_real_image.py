"""pytorch-cuda:v2.7 into real registries: from its store, and from a runner with 4 GB of disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from realimage import REF, ROOT, Real, locked_digest
from registry_server import start_registry

from envbuild.image.locked import image_of
from envbuild.image.plan import plan_image
from envbuild.lock import Lock, read_lock
from envbuild.progress import SilentProgress
from envbuild.publish.views import stored
from envbuild.registry.reference import parse_repository
from envbuild.registry.remote import Blob, Remote, push_all
from envbuild.store import Http, Store

pytestmark = [pytest.mark.real, pytest.mark.docker, pytest.mark.network]
DOCKER = "/usr/bin/docker"
SMALL_DISK = 4_000_000_000


@dataclass(frozen=True)
class Registry:
    """A registry of Debian's; its blobs lie in ``folder``."""

    host: str
    folder: Path

    def manifest(self, repository: str, reference: str) -> Any:
        address = f"http://{self.host}/v2/{repository}/manifests/{reference}"
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(address, headers=accept)) as answer:
            return json.load(answer)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    process, port = start_registry(tmp_path)
    yield Registry(f"127.0.0.1:{port}", tmp_path / "data")
    process.terminate()
    process.wait()
    subprocess.run(["rm", "-rf", str(tmp_path / "data")], check=True)  # gigabytes, and others follow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 GB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "small", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_from_the_store_and_docker_runs_what_it_pulls(real: Real, registry: Registry) -> None:
    first = json.loads(
        real.envbuild("publish", REF, f"{registry.host}/team/image", "--allow-unverified", "--json").stdout
    )
    assert first["digest"] == locked_digest(REF)
    assert {layer["how"] for layer in first["layers"]} == {"uploaded"}
    again = json.loads(
        real.envbuild("publish", REF, f"{registry.host}/team/image", "--allow-unverified", "--json").stdout
    )
    assert again["bytes_sent"] == 0
    name = f"{registry.host}/team/image:v2.7-candidate"
    subprocess.run([DOCKER, "pull", "-q", name], check=True)
    try:
        command = [
            DOCKER,
            "run",
            "--rm",
            "--network=none",
            name,
            "python",
            "-c",
            "import torch; print(torch.__version__)",
        ]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    finally:
        subprocess.run([DOCKER, "image", "rm", name], check=True, stdout=subprocess.DEVNULL)
    assert said.strip() == "2.7.1+cu126"


def test_a_runner_with_4_gb_of_disk_publishes_it(
    real: Real, registry: Registry, small_disk: Path, tmp_path: Path
) -> None:
    """Another runner has built what must be built; wheel layers are streamed from the wheels, 3.1 GB of them."""
    lock = read_lock(ROOT / "recipes" / REF.replace(":", "/") / "lock.json")
    operator_and_code(lock, Store.open(real.store), f"{registry.host}/team/layers")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for wheel in lock.python:
        (mirror / wheel.basename).symlink_to(real.store / "artifacts/sha256" / wheel.sha256)
    env = {
        **os.environ,
        "ENVBUILD_STORE": str(small_disk / "store"),
        "ENVBUILD_LAYER_CACHE": f"{registry.host}/team/layers",
        "ENVBUILD_ARTIFACT_MIRROR": str(mirror),
        "ENVBUILD_PYTHON_INDEX": "http://127.0.0.1:9/simple",
        "ENVBUILD_DEBIAN_MIRROR": "http://127.0.0.1:9/debian",
    }
    command = [
        sys.executable,
        "-m",
        "envbuild",
        "publish",
        REF,
        f"{registry.host}/team/image",
        "--by-digest",
        "--json",
    ]
    done = subprocess.run(command, check=True, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    answer = json.loads(done.stdout)
    assert answer["digest"] == locked_digest(REF)
    how = {layer["name"]: layer["how"] for layer in answer["layers"]}
    assert how["torch"] == how["cudnn"] == how["python-1"] == "uploaded"
    assert how["base"] == how["torch-bytecode"] == how["deepspeed"] == "mounted"
    assert answer["size"] > 3_300_000_000  # layers and wheels together would not have fitted
    assert registry.manifest("team/image", answer["digest"])["layers"]


def operator_and_code(lock: Lock, store: Store, repository: str) -> None:
    """What a runner that can build leaves in the layer cache, without the layers of wheels that an index has."""
    image = image_of(lock)
    assert image is not None
    assert lock.native is not None
    plans = {plan.name: plan for plan in plan_image(lock, operator=lock.native.wheel).layers}
    kept = [
        layer
        for layer in image.layers
        if plans[layer.name].kind != "wheels" or any(a.index == "built" for a in plans[layer.name].artifacts)
    ]
    blobs = [
        Blob(descriptor=layer.descriptor, name=layer.name, chunks=stored(store.layout.path(layer.digest)))
        for layer in kept
    ]
    remote = Remote(parse_repository(repository), http=Http(environ={}), environ={})
    push_all(remote, blobs, jobs=4, progress=SilentProgress())
