"""A small channel behind a server, and environments made from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from condachannel import Sdist, deepspeed_sdist, locked, make_channel, ninja_wheel, serve_channel
from envworld import World
from faulty_server import FaultyServer


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_channel(tmp_path_factory.mktemp("channel"))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    running = FaultyServer()
    yield running
    running.close()


@pytest.fixture
def sdist() -> Sdist:
    return deepspeed_sdist()


@pytest.fixture
def world(channel: Path, server: FaultyServer, sdist: Sdist, tmp_path: Path) -> World:
    """Everything served, nothing fetched. ``world.lock`` holds neither pip nor DeepSpeed."""
    ninja = ninja_wheel()
    ninja.serve(server)
    return World(
        folder=tmp_path,
        server=server,
        channel=serve_channel(server, channel),
        index=sdist.serve(server),
        lock=locked(channel, names={"python", "libsmall", "small-home", "greet", "gpu-small", "tzdata"}),
        whole=locked(channel, pip=(sdist.artifact, ninja.artifact)),
    )
