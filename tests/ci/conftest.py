"""The pipeline's scripts in a checkout, the small image, a registry."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import Checkout
from clirun import NOWHERE, ROOT
from registry_server import start_registry
from smallimage import SmallWorld

sys.path.append(str(ROOT / "tests/lock"))  # its stand-ins of the world outside are used here too


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """The scripts and no recipe; nothing outside is reachable."""
    home = tmp_path / "home"
    home.mkdir()
    folder = tmp_path / "checkout"
    for name in ("pipeline", "gitlab"):
        shutil.copytree(
            ROOT / "ci" / name, folder / "ci" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / "recipes").mkdir()
    (folder / ".gitignore").write_text("/proposal.md\n/out/\n")
    made = Checkout(
        folder=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_AUTHOR_NAME": "someone", "GIT_AUTHOR_EMAIL": "someone@example.com",
            "GIT_COMMITTER_NAME": "someone", "GIT_COMMITTER_EMAIL": "someone@example.com",
            "ENVBUILD_STORE": str(tmp_path / "store"),
            "ENVBUILD_PYTHON_INDEX": f"{NOWHERE}/simple",
            "ENVBUILD_DEBIAN_MIRROR": f"{NOWHERE}/debian",
            "UV_HTTP_RETRIES": "0",
        },
    )  # fmt: skip
    made.git("init", "--quiet", "--initial-branch=main")
    return made


@pytest.fixture
def on_small(checkout: Checkout, small: SmallWorld) -> Iterator[Checkout]:
    """The checkout with the recipe of the small image, and its store."""
    shutil.copytree(small.recipes, checkout.folder / "recipes", dirs_exist_ok=True)
    checkout.commit("recipes")
    yield checkout.with_env(ENVBUILD_STORE=str(small.store.root), ENVBUILD_ENGINE="sandbox")
    for name in list(small.store.layout.tags()):
        small.store.layout.untag(name)
    shutil.rmtree(small.store.root / "verdicts", ignore_errors=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of an empty registry."""
    folder = tmp_path / "registry"
    folder.mkdir()
    process, port = start_registry(folder)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()
