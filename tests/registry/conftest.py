from __future__ import annotations

import hashlib
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from contents import make_image
from modern_registry import ModernRegistry
from registry_proxy import RegistryProxy
from registry_server import start_registry

from envbuild.oci.image import Image
from envbuild.oci.layout import Layout
from envbuild.registry import Remote, parse_repository
from envbuild.store import Http, Store
from envbuild.store.retry import Patience


@dataclass(frozen=True)
class Pushed:
    """What lies in the real registry: an image as OCI and as Docker manifest, and an index over two platforms."""

    port: int
    image: Image
    oci: str
    docker: str
    index: str
    no_amd64: str


def put_manifest(port: int, data: bytes, media_type: str) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/team/app/manifests/{digest}",
        data=data,
        method="PUT",
        headers={"Content-Type": media_type},
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()
    return digest


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    folder = tmp_path_factory.mktemp("registry")
    process, port = start_registry(folder)
    try:
        layout = Layout.create(folder / "oci")
        image = make_image(layout)
        source = f"oci:{layout.root}:image"
        to = f"docker://127.0.0.1:{port}/team/app"
        copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false"]
        subprocess.run([*copy, "--preserve-digests", source, f"{to}:oci"], check=True)
        file = folder / "digest"
        subprocess.run([*copy, "--format=v2s2", "--digestfile", file, source, f"{to}:docker"], check=True)
        amd64 = {**image.manifest.to_dict(), "platform": {"os": "linux", "architecture": "amd64"}}
        arm64 = {**image.manifest.to_dict(), "platform": {"os": "linux", "architecture": "arm64"}}
        attestation = {**image.manifest.to_dict(), "platform": {"os": "unknown", "architecture": "unknown"}}
        kind = "application/vnd.oci.image.index.v1+json"

        def index(*entries: dict[str, object]) -> str:
            value = {"schemaVersion": 2, "mediaType": kind, "manifests": list(entries)}
            return put_manifest(port, json.dumps(value).encode(), kind)

        yield Pushed(
            port=port,
            image=image,
            oci=image.digest,
            docker=file.read_text().strip(),
            index=index(arm64, attestation, amd64),
            no_amd64=index(arm64, attestation),
        )
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def proxies(pushed: Pushed) -> Iterator[Callable[[str], RegistryProxy]]:
    made: list[RegistryProxy] = []

    def make(address: str) -> RegistryProxy:
        made.append(RegistryProxy(pushed.port, address))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def proxy(proxies: Callable[[str], RegistryProxy]) -> RegistryProxy:
    return proxies("127.0.0.1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def http(tmp_path: Path) -> Http:
    return Http(
        environ={"HOME": str(tmp_path)},
        read_timeout=1,
        patience=Patience(tries=3, first=0.01, longest=0.02, longest_asked=0.05),
    )


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[int]:
    """The port of a real registry that has nothing yet."""
    folder = tmp_path / "empty-registry"
    folder.mkdir()
    process, port = start_registry(folder)
    yield port
    process.terminate()
    process.wait()


@pytest.fixture
def front(empty: int) -> Iterator[RegistryProxy]:
    """A proxy before the empty registry."""
    proxy = RegistryProxy(empty)
    yield proxy
    proxy.close()


@pytest.fixture
def modern() -> Iterator[ModernRegistry]:
    registry = ModernRegistry()
    yield registry
    registry.close()


Connect = Callable[..., Remote]


@pytest.fixture
def connect(http: Http) -> Connect:
    """Makes the client of a repository at ``host``."""

    def make(host: object, repository: str = "team/app", **environ: str) -> Remote:
        return Remote(parse_repository(f"{host}/{repository}"), http=http, environ=environ)

    return make
