"""The command line beside a copy of all recipes and rendered files, with a store of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clirun import NOWHERE, ROOT, Cli

from envbuild.sandbox import Sandbox
from envbuild.store import Store


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Works on the committed recipes and rendered files; reaches nothing."""
    return Cli(
        folder=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "ENVBUILD_STORE": str(tmp_path / "store"),
            "ENVBUILD_RECIPES": str(ROOT / "recipes"),
            "ENVBUILD_PYTHON_INDEX": f"{NOWHERE}/simple",
        },
    )


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    """A folder with a copy of pytorch-cuda:v2.7's recipe, locks and rendered files, to edit."""
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "recipes/pytorch-cuda/v2.7", folder / "recipes/pytorch-cuda/v2.7")
    (folder / "dockerfiles").mkdir()
    for path in ROOT.glob("dockerfiles/pytorch-cuda-v2.7.*"):
        shutil.copy(path, folder / "dockerfiles")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The store that ``cli`` uses."""
    opened = Store.open(tmp_path / "store")
    yield opened
    sandbox = Sandbox.detect()
    for root in opened.roots.iterdir():
        sandbox.remove(root)
    opened.close()


@pytest.fixture
def docker_name() -> Iterator[str]:
    """A name for an image in the machine's Docker, removed afterwards. Its absence fails the tests."""
    if os.environ.get("ENVBUILD_TEST_NO_DOCKER") == "1":
        pytest.skip("ENVBUILD_TEST_NO_DOCKER=1: no Docker engine on this machine, by the caller's word")
    name = f"envbuild-diff-{os.getpid()}:v1"
    yield name
    subprocess.run(["docker", "rmi", "-f", name], capture_output=True, check=False)
