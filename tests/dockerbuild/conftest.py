"""A small recipe on small stand-in bases, built once by a real Docker engine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import smallimage
from dockerstandin import own_images
from smalldocker import NAME, Built, Small, first_build, make_bases, make_small


@pytest.fixture(scope="session")
def small_docker(small: smallimage.SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """The engine's absence fails the tests, unless ENVBUILD_TEST_NO_DOCKER=1 says that it is known."""
    if os.environ.get("ENVBUILD_TEST_NO_DOCKER") == "1":
        pytest.skip("ENVBUILD_TEST_NO_DOCKER=1: no Docker engine on this machine, by the caller's word")
    with own_images(f"{NAME}:", f"{NAME}-"):
        bases = make_bases(small, tmp_path_factory.mktemp("bases"))
        yield make_small(small, bases, tmp_path_factory.mktemp("docker"))


@pytest.fixture(scope="session")
def built(small_docker: Small) -> Built:
    """Without a network, with secrets that a step could read."""
    return first_build(small_docker)
