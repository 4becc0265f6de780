"""A small real image in a store, and a real engine."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tinyimage

from envbuild.engine.docker import Docker
from envbuild.engine.model import ImageRef
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.sandbox import Sandbox
from envbuild.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store")
    yield opened
    sandbox = Sandbox.detect()
    for root in opened.roots.iterdir():
        sandbox.remove(root)
    opened.close()


@pytest.fixture
def layout(store: Store) -> Layout:
    return store.layout


@pytest.fixture
def make_image(layout: Layout) -> Iterator[Callable[..., ImageRef]]:
    """Makes images in the layout. Each test has its own mark: engines keep images by digest, across tests.

    Whatever of them got into the machine's Docker is removed again.
    """
    mark = hashlib.sha256(str(layout.root).encode()).hexdigest()
    made: list[ImageRef] = []

    @functools.wraps(tinyimage.make_image)
    def make(*extra: Layer, **fields: object) -> ImageRef:
        made.append(tinyimage.make_image(layout, *extra, **{"mark": mark, **fields}))
        return made[-1]

    yield make
    names = [name for image in made for name in (*image.names, image.config)]
    if names and os.environ.get("ENVBUILD_TEST_NO_DOCKER") != "1" and Path("/usr/bin/docker").exists():
        subprocess.run(["/usr/bin/docker", "rmi", "-f", *names], capture_output=True, check=False)


@pytest.fixture
def docker_engine() -> Docker:
    """A real engine. Its absence fails the tests, unless ENVBUILD_TEST_NO_DOCKER=1 says that it is known."""
    if os.environ.get("ENVBUILD_TEST_NO_DOCKER") == "1":
        pytest.skip("ENVBUILD_TEST_NO_DOCKER=1: no Docker engine on this machine, by the caller's word")
    return Docker.connect({**os.environ, "NCCL_P2P_DISABLE": "1", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1"})
