"""Two stores: here, with an image, and there, where the far folder is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bundlemaker import World, write_far

from envbuild.sandbox import Sandbox
from envbuild.store import Store


@pytest.fixture(scope="session")
def far_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed; a test that does takes ``own_far``."""
    return write_far(tmp_path_factory.mktemp("far") / "site-packages")


@pytest.fixture
def own_far(tmp_path: Path) -> Path:
    return write_far(tmp_path / "own" / "site-packages")


@pytest.fixture
def world(tmp_path: Path, far_folder: Path, sandbox: Sandbox) -> Iterator[World]:
    with Store.open(tmp_path / "here") as here, Store.open(tmp_path / "there") as there:
        yield World(here=here, there=there, far=far_folder, folder=tmp_path, sandbox=sandbox)
        for store in (here, there):
            for root in store.roots.iterdir():
                sandbox.remove(root)
