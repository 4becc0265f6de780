"""Loading, tagging and running with a real Docker engine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from envbuild.engine.docker import Docker
from envbuild.engine.model import ImageRef, RunCommand, Streams
from envbuild.progress import SilentProgress

pytestmark = pytest.mark.docker
Make = Callable[..., ImageRef]


def docker(*argv: str) -> str:
    return subprocess.run(
        ["/usr/bin/docker", *argv], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def loaded(docker_engine: Docker, make_image: Make) -> Iterator[ImageRef]:
    image = make_image()
    docker_engine.load(image, SilentProgress())
    yield image
    subprocess.run(
        ["/usr/bin/docker", "rmi", "-f", *image.names, image.config], capture_output=True, check=False
    )


def output(
    engine: Docker, image: ImageRef, command: RunCommand, tmp_path: Path, stdin: bytes = b""
) -> tuple[int, str, str]:
    out, err, given = tmp_path / "out", tmp_path / "err", tmp_path / "in"
    given.write_bytes(stdin)
    with given.open("rb") as i, out.open("wb") as o, err.open("wb") as e:
        status = engine.run(image, command, Streams(stdin=i.fileno(), stdout=o.fileno(), stderr=e.fileno()))
    return status, out.read_text(), err.read_text()


def test_load_gives_the_names_and_nothing_else(docker_engine: Docker, loaded: ImageRef) -> None:
    assert docker("image", "inspect", "--format", "{{.Id}}", loaded.names[0]) == loaded.config
    assert docker(
        "image", "inspect", "--format", "{{json .RepoTags}} {{json .RepoDigests}}", loaded.config
    ) == (f'["{loaded.names[0]}"] []')
    assert docker_engine.has(loaded)


def test_docker_run_takes_the_name(loaded: ImageRef) -> None:
    assert (
        docker("run", "--rm", "--network", "none", loaded.names[0], "sh", "-c", "echo $FROM_IMAGE; pwd")
        == "image\n/work"
    )
