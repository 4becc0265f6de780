"""A whole image into a registry, read back by others; TLS, plain HTTP and two pushers at once."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from authority import make_authority
from contents import make_image, push
from registry_proxy import RegistryProxy
from registry_server import start_registry

from envbuild.errors import EnvbuildError
from envbuild.oci.descriptor import MANIFEST, Descriptor
from envbuild.oci.digest import CHUNK
from envbuild.oci.image import Image
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress
from envbuild.registry import Blob, Remote, parse_image_name, parse_repository, pull_image
from envbuild.store import Http, Store

if TYPE_CHECKING:
    from conftest import Connect


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "made" / "oci")


@pytest.fixture
def image(layout: Layout) -> Image:
    return make_image(layout)


def blob_in(layout: Layout, descriptor: Descriptor) -> Blob:
    def chunks(offset: int) -> Iterator[bytes]:
        with layout.path(descriptor.digest).open("rb") as stream:
            stream.seek(offset)
            while piece := stream.read(CHUNK):
                yield piece

    return Blob(descriptor=descriptor, name=descriptor.digest, chunks=chunks)


def push_image(remote: Remote, layout: Layout, image: Image, tag: str | None = None) -> None:
    """Blobs first, then the manifest by digest, then the tag."""
    value = json.loads(image.manifest_bytes)
    parts = [value["config"], *value["layers"]]
    blobs = [
        blob_in(layout, Descriptor(media_type=part["mediaType"], digest=part["digest"], size=part["size"]))
        for part in parts
    ]
    push(remote, *blobs)
    assert remote.put_manifest(image.manifest_bytes, MANIFEST).digest == image.digest
    if tag is not None:
        remote.put_manifest(image.manifest_bytes, MANIFEST, tag=tag)


def test_skopeo_reads_what_was_pushed(
    empty: int, connect: Connect, layout: Layout, image: Image, tmp_path: Path
) -> None:
    push_image(connect(f"127.0.0.1:{empty}"), layout, image, "v1")
    name = f"docker://127.0.0.1:{empty}/team/app:v1"
    seen = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", name], check=True, capture_output=True
    ).stdout
    assert json.loads(seen)["Digest"] == image.digest
    assert json.loads(seen)["Layers"] == [layer.digest for layer in image.layers]
    folder = tmp_path / "copy"
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", name, f"dir:{folder}"], check=True)
    assert (folder / "manifest.json").read_bytes() == image.manifest_bytes
    for layer in image.layers:
        data = (folder / layer.digest.removeprefix("sha256:")).read_bytes()
        assert "sha256:" + hashlib.sha256(data).hexdigest() == layer.digest


def pull(store: Store, http: Http, name: str, **more: object):  # type: ignore[no-untyped-def]  # Pulled
    return pull_image(
        parse_image_name(name),
        store=store,
        http=http,
        environ={},
        jobs=2,
        progress=SilentProgress(),
        **more,  # type: ignore[arg-type]  # has_layer or nothing
    )


def test_a_tag_is_pulled_by_the_digest_that_it_names(
    empty: int, connect: Connect, http: Http, store: Store, layout: Layout, image: Image
) -> None:
    push_image(connect(f"127.0.0.1:{empty}"), layout, image, "v1")
    pulled = pull(store, http, f"127.0.0.1:{empty}/team/app:v1")
    assert str(pulled.reference) == f"127.0.0.1:{empty}/team/app:v1@{image.digest}"
    assert pulled.manifest.digest == image.digest
    assert pulled.fetched == sum(layer.size for layer in image.layers) + len(image.config_bytes)
    with pytest.raises(EnvbuildError, match="has no image v2") as caught:
        pull(store, http, f"127.0.0.1:{empty}/team/app:v2")
    assert caught.value.id == "not-found"


def test_layers_that_the_caller_has_are_not_fetched(
    empty: int, connect: Connect, http: Http, store: Store, layout: Layout, image: Image
) -> None:
    push_image(connect(f"127.0.0.1:{empty}"), layout, image, "v1")
    have = image.layers[1]
    pulled = pull(
        store,
        http,
        f"127.0.0.1:{empty}/team/app@{image.digest}",
        has_layer=lambda diff_id: diff_id == have.diff_id,
    )
    assert [layer.digest for layer in pulled.layers] == [layer.digest for layer in image.layers]
    assert [store.layout.has(layer.digest) for layer in image.layers] == [True, False, True]
    assert pulled.fetched == sum(layer.size for layer in image.layers if layer is not have) + len(
        image.config_bytes
    )


def test_two_push_the_same_image_at_once(
    empty: int, connect: Connect, http: Http, store: Store, layout: Layout, image: Image
) -> None:
    problems: list[BaseException] = []

    def work(tag: str) -> None:
        try:
            push_image(connect(f"127.0.0.1:{empty}"), layout, image, tag)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(f"v{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(connect(f"127.0.0.1:{empty}").tags()) == ["v0", "v1", "v2"]
    assert pull(store, http, f"127.0.0.1:{empty}/team/app:v2").manifest.digest == image.digest


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A folder with a test CA (``ca.pem``) and its certificate for this machine (``cert.pem``, ``key.pem``)."""
    return make_authority(tmp_path / "tls")


@pytest.fixture
def secure(tmp_path: Path, authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The host of a real registry with TLS, by a name that is not loopback's."""
    process, port = start_registry(tmp_path, certificate=(authority / "cert.pem", authority / "key.pem"))
    resolve_to_loopback(monkeypatch)
    yield f"envbuild.test:{port}"
    process.terminate()
    process.wait()


def resolve_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``envbuild.test`` mean this machine, as an entry in the hosts file would."""
    real = socket.getaddrinfo

    def resolve(host: object, *more: object, **named: object) -> object:
        return real("127.0.0.1" if host == "envbuild.test" else host, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_tls_of_a_private_authority(
    secure: str, authority: Path, layout: Layout, image: Image, tmp_path: Path
) -> None:
    trusting = Http(environ={"HOME": str(tmp_path), "SSL_CERT_FILE": str(authority / "ca.pem")})
    remote = Remote(parse_repository(f"{secure}/team/app"), http=trusting, environ={})
    push_image(remote, layout, image, "v1")
    assert remote.tags() == ["v1"]
    other = Remote(
        parse_repository(f"{secure}/team/app"), http=Http(environ={"HOME": str(tmp_path)}), environ={}
    )
    with pytest.raises(EnvbuildError, match="certificate that is not trusted") as caught:
        other.tags()
    assert "SSL_CERT_FILE" in caught.value.hint


def test_plain_http_is_spoken_where_it_is_named(
    empty: int, http: Http, layout: Layout, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to_loopback(monkeypatch)
    host = f"envbuild.test:{empty}"
    named = {"ENVBUILD_PLAIN_HTTP": f"other.example.org, {host}"}
    push_image(Remote(parse_repository(f"{host}/team/app"), http=http, environ=named), layout, image, "v1")
    with pytest.raises(EnvbuildError, match="TLS"):
        Remote(parse_repository(f"{host}/team/app"), http=http, environ={}).tags()


def test_an_upload_does_not_go_on_without_tls(
    empty: int,
    authority: Path,
    layout: Layout,
    image: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A registry does not know that a proxy speaks TLS for it, and names addresses without."""
    resolve_to_loopback(monkeypatch)
    proxy = RegistryProxy(empty)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    trusting = Http(environ={"HOME": str(tmp_path), "SSL_CERT_FILE": str(authority / "ca.pem")})
    name = parse_repository(f"envbuild.test:{proxy.server_port}/team/app")
    try:
        with pytest.raises(EnvbuildError, match="goes on without TLS") as caught:
            push_image(Remote(name, http=trusting, environ={}), layout, image)
        assert "X-Forwarded-Proto" in caught.value.hint
    finally:
        proxy.close()
