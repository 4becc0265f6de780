"""Loading, tagging and running with a real Docker engine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler

import pytest

from envbuild.engine.docker import Docker
from envbuild.engine.loopback import serve
from envbuild.engine.model import ImageRef
from envbuild.oci.digest import of_bytes
from envbuild.progress import SilentProgress

pytestmark = pytest.mark.docker
Make = Callable[..., ImageRef]


def docker(*argv: str) -> str:
    return subprocess.run(
        ["/usr/bin/docker", *argv], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def loaded(docker_engine: Docker, make_image: Make) -> ImageRef:
    image = make_image()
    docker_engine.load(image, SilentProgress())
    return image


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


def test_an_image_that_is_there_gets_its_other_names(docker_engine: Docker, loaded: ImageRef) -> None:
    other = loaded.names[0].replace("-candidate", "")
    docker_engine.tag(loaded, [other])
    try:
        assert docker("image", "inspect", "--format", "{{.Id}}", other) == loaded.config
    finally:
        docker("rmi", other)
    assert docker_engine.has(loaded)


def test_layers_that_are_there_are_not_asked_for_again(
    docker_engine: Docker, loaded: ImageRef, make_image: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []
    real = BaseHTTPRequestHandler.send_response

    def spy(self: BaseHTTPRequestHandler, code: int, message: str | None = None) -> None:
        served.append(self.path)
        real(self, code, message)

    monkeypatch.setattr(BaseHTTPRequestHandler, "send_response", spy)
    changed = make_image(env={"CHANGED": "1"})
    docker_engine.load(changed, SilentProgress())
    assert any(changed.config in path for path in served)
    assert not any(layer.digest in path for layer in changed.layers for path in served)


@pytest.mark.parametrize(
    "path", ["/v2/other/manifests/x", "/etc/passwd", "/v2/../../etc/passwd", "/v2/_catalog", "/"]
)
def test_the_loopback_registry_serves_that_image_only(make_image: Make, path: str) -> None:
    image = make_image()
    with serve(image) as registry:
        host, _, name = registry.repository.partition("/")
        connection = HTTPConnection(host, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 404
        assert not registry.asked.is_set()
        connection.request("GET", f"/v2/{name}/manifests/{image.manifest}")
        answer = connection.getresponse()
        assert (answer.status, of_bytes(answer.read())) == (200, image.manifest)
        connection.request("POST", f"/v2/{name}/blobs/uploads/")
        assert connection.getresponse().status == 501
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        HTTPConnection(host, timeout=10).request("GET", "/v2/")
