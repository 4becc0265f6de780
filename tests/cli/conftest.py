"""A call of ``envbuild`` that reaches nothing, and a recipe to edit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clirun import NOWHERE, ROOT, Cli
from smallimage import SmallWorld


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A copy of the committed recipe, to edit."""
    target = tmp_path / "recipes" / "pytorch-cuda" / "v2.7"
    shutil.copytree(ROOT / "recipes/pytorch-cuda/v2.7", target)
    return tmp_path / "recipes"


@pytest.fixture
def cli(tmp_path: Path, recipes: Path) -> Cli:
    """Nothing is reachable: index and mirrors are addresses that refuse."""
    home = tmp_path / "home"
    home.mkdir()
    return Cli(
        folder=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ENVBUILD_STORE": str(tmp_path / "store"),
            "ENVBUILD_RECIPES": str(recipes),
            "ENVBUILD_PYTHON_INDEX": f"{NOWHERE}/simple",
            "ENVBUILD_DEBIAN_MIRROR": f"{NOWHERE}/debian",
            "UV_HTTP_RETRIES": "0",
        },
    )


@pytest.fixture
def on_small(cli: Cli, small: SmallWorld) -> Iterator[Cli]:
    """The command line with the small world's store and a copy of its recipe."""
    recipes = cli.folder / "small"
    shutil.copytree(small.recipes, recipes)
    env = {"ENVBUILD_RECIPES": str(recipes), "ENVBUILD_STORE": str(small.store.root)}
    yield replace(cli, env={**cli.env, **env})
    for name in list(small.store.layout.tags()):
        small.store.layout.untag(name)
    shutil.rmtree(small.store.root / "verdicts", ignore_errors=True)
