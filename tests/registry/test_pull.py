"""Pulling from Debian's docker-registry, straight and through a proxy that fails."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from registry_proxy import RegistryProxy, changed, cut, flip, redirect, stall, status
from registry_server import HTPASSWD, start_registry

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import LAYER_GZIP
from envbuild.progress import SilentProgress
from envbuild.registry import Pulled, pull_image
from envbuild.store import Http, Store

if TYPE_CHECKING:
    from conftest import Pushed

BLOB = r"/blobs/"
MANIFEST = r"/manifests/"


def pull(
    store: Store,
    http: Http,
    host: object,
    digest: str,
    *,
    environ: dict[str, str] | None = None,
    tag: str = "",
) -> Pulled:
    return pull_image(
        f"{host}/team/app{tag}@{digest}",
        store=store,
        http=http,
        environ=environ or {},
        jobs=3,
        progress=SilentProgress(),
    )


def assert_right(store: Store, pulled: Pulled, pushed: Pushed) -> None:
    image = pushed.image
    assert [(item.digest, item.diff_id, item.size, item.media_type) for item in pulled.layers] == [
        (item.digest, item.diff_id, item.size, LAYER_GZIP) for item in image.layers
    ]
    assert json.dumps(pulled.config, sort_keys=True) == json.dumps(
        json.loads(image.config_bytes), sort_keys=True
    )
    for digest in store.layout.blobs():
        assert "sha256:" + hashlib.sha256(store.layout.path(digest).read_bytes()).hexdigest() == digest
    assert store.layout.has(pulled.manifest.digest, pulled.manifest.size)
    assert list(store.partial.iterdir()) == []


def docker_config(folder: Path, value: object) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(value))
    return {"DOCKER_CONFIG": str(folder)}


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("form", ["oci", "docker", "index"])
def test_an_image_comes_whole(store: Store, http: Http, pushed: Pushed, form: str) -> None:
    pulled = pull(store, http, f"127.0.0.1:{pushed.port}", getattr(pushed, form))
    assert_right(store, pulled, pushed)
    assert pulled.manifest.digest == (pushed.docker if form == "docker" else pushed.oci)


def test_skopeo_reads_what_was_pulled(store: Store, http: Http, pushed: Pushed) -> None:
    pulled = pull(store, http, f"localhost:{pushed.port}", pushed.oci, tag=":oci")
    store.layout.tag("base", pulled.manifest)
    seen = subprocess.run(
        ["skopeo", "inspect", f"oci:{store.layout.root}:base"], check=True, capture_output=True
    ).stdout
    assert json.loads(seen)["Digest"] == pushed.oci


def test_the_second_pull_asks_nothing(store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy) -> None:
    first = pull(store, http, proxy.host, pushed.index)
    asked = len(proxy.requests)
    assert pull(store, http, proxy.host, pushed.index).layers == first.layers
    assert len(proxy.requests) == asked


def test_a_lost_blob_comes_again_with_a_token(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy
) -> None:
    proxy.token = "t"
    pull(store, http, proxy.host, pushed.oci)
    store.layout.remove(pushed.image.layers[1].digest)
    assert_right(store, pull(store, http, proxy.host, pushed.oci), pushed)


@pytest.mark.parametrize("where", [BLOB, MANIFEST])
@pytest.mark.parametrize(
    "fault",
    [cut(0), cut(100), status(429, Retry_After="0"), status(500), status(503), stall],
    ids=["cut at once", "cut", "429", "500", "503", "stall"],
)
def test_what_passes_is_tried_again(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy, where: str, fault: object
) -> None:
    proxy.faults = [(where, fault, False)] * 2  # type: ignore[list-item]  # pytest gives parameters as objects
    assert_right(store, pull(store, http, proxy.host, pushed.oci), pushed)


def test_a_cut_blob_is_resumed(store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy) -> None:
    blob = pushed.image.layers[0].digest
    proxy.faults = [(blob, cut(100_000), False)]
    pull(store, http, proxy.host, pushed.oci)
    ranges = [headers.get("range") for path, headers in proxy.requests if path.endswith(blob)]
    assert ranges == [None, "bytes=100000-"]


def test_a_flipped_byte_in_a_layer_is_refused(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy
) -> None:
    blob = pushed.image.layers[1].digest
    proxy.faults = [(blob, flip(1000), True)]
    with pytest.raises(EnvbuildError) as caught:
        pull(store, http, proxy.host, pushed.oci)
    assert (caught.value.id, caught.value.exit) == ("wrong-hash", Exit.VERIFY)
    assert blob.removeprefix("sha256:") in caught.value.message
    assert not store.layout.has(blob)
    proxy.faults = []
    assert_right(store, pull(store, http, proxy.host, pushed.oci), pushed)


def test_a_changed_manifest_is_refused(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy
) -> None:
    proxy.faults = [(MANIFEST, flip(30), True)]
    with pytest.raises(EnvbuildError) as caught:
        pull(store, http, proxy.host, pushed.oci)
    assert (caught.value.id, caught.value.exit) == ("wrong-hash", Exit.VERIFY)
    assert f"expected {pushed.oci}" in caught.value.message
    assert not store.layout.has(pushed.oci)


def test_a_layer_of_another_length_is_refused(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy
) -> None:
    proxy.faults = [(pushed.image.layers[2].digest, changed(lambda body: body + b"more"), True)]
    with pytest.raises(EnvbuildError) as caught:
        pull(store, http, proxy.host, pushed.oci)
    assert caught.value.exit == Exit.VERIFY


def test_an_endless_manifest_is_refused(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy
) -> None:
    proxy.faults = [(MANIFEST, changed(lambda body: bytes(5 << 20)), True)]
    with pytest.raises(EnvbuildError, match="more than 4194304 bytes") as caught:
        pull(store, http, proxy.host, pushed.oci)
    assert caught.value.exit == Exit.NETWORK


def test_no_image_for_this_platform_is_told(store: Store, http: Http, pushed: Pushed) -> None:
    with pytest.raises(EnvbuildError, match=r"no image for linux/amd64 \(it has linux/arm64\)") as caught:
        pull(store, http, f"127.0.0.1:{pushed.port}", pushed.no_amd64)
    assert caught.value.exit == Exit.INPUT


def test_an_unknown_digest_is_told(store: Store, http: Http, pushed: Pushed) -> None:
    with pytest.raises(EnvbuildError) as caught:
        pull(store, http, f"127.0.0.1:{pushed.port}", "sha256:" + "0" * 64)
    assert (caught.value.id, caught.value.exit) == ("not-found", Exit.NETWORK)


def test_a_registry_that_is_down_is_told(store: Store, http: Http, pushed: Pushed) -> None:
    with pytest.raises(EnvbuildError, match=r"registry 127\.0\.0\.1:1 cannot be reached") as caught:
        pull(store, http, "127.0.0.1:1", pushed.oci)
    assert caught.value.exit == Exit.NETWORK


def test_a_token_is_fetched_when_asked_for(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy
) -> None:
    proxy.token = "opaque"
    assert_right(store, pull(store, http, proxy.host, pushed.oci), pushed)
    assert proxy.token_requests == [
        {"method": "GET", "service": "the registry", "scope": "repository:team/app:pull", "auth": ""}
    ]


def test_a_token_that_ends_is_fetched_again(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy
) -> None:
    proxy.token, proxy.life = "short", 5  # shorter than the margin
    assert_right(store, pull(store, http, proxy.host, pushed.oci), pushed)
    assert len(proxy.token_requests) > 1


def test_the_account_of_docker_login_gets_the_token(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy, tmp_path: Path
) -> None:
    proxy.token, proxy.account = "t", "me:secret"
    environ = docker_config(tmp_path / "docker", {"auths": {proxy.host: {"auth": auth("me:secret")}}})
    assert_right(store, pull(store, http, proxy.host, pushed.oci, environ=environ), pushed)


def test_a_wrong_account_is_told_and_not_printed(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy, tmp_path: Path
) -> None:
    proxy.token, proxy.account = "t", "me:secret"
    environ = docker_config(tmp_path / "docker", {"auths": {proxy.host: {"auth": auth("me:guess")}}})
    with pytest.raises(EnvbuildError) as caught:
        pull(store, http, proxy.host, pushed.oci, environ=environ)
    assert (caught.value.id, caught.value.exit) == ("not-allowed", Exit.NETWORK)
    assert "docker login" in caught.value.hint
    assert "guess" not in repr(caught.value.to_dict())


def test_an_identity_token_is_exchanged(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy, tmp_path: Path
) -> None:
    proxy.token, proxy.identity_token = "t", "refresh-me"
    environ = docker_config(tmp_path / "docker", {"auths": {proxy.host: {"identitytoken": "refresh-me"}}})
    assert_right(store, pull(store, http, proxy.host, pushed.oci, environ=environ), pushed)
    assert proxy.token_requests[0]["grant_type"] == "refresh_token"


@pytest.mark.parametrize("realm", ["http://auth.example.org/token", "ftp://127.0.0.1/x", "", "nonsense"])
def test_a_token_service_without_tls_is_not_asked(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy, realm: str
) -> None:
    proxy.token, proxy.realm = "t", realm
    with pytest.raises(EnvbuildError, match="not known or not safe"):
        pull(store, http, proxy.host, pushed.oci)


def test_blobs_may_be_elsewhere_and_the_token_does_not_follow(
    store: Store, http: Http, pushed: Pushed, proxy: RegistryProxy, proxies: Callable[[str], RegistryProxy]
) -> None:
    other = proxies("127.0.0.2")
    proxy.token = "mine"
    proxy.faults = [(BLOB, redirect(f"http://{other.host}"), True)]
    assert_right(store, pull(store, http, proxy.host, pushed.oci), pushed)
    assert len(other.requests) == 4
    assert all("authorization" not in headers for _, headers in other.requests)


def test_a_password_is_sent_where_the_registry_asks_for_it(
    store: Store, http: Http, pushed: Pushed, tmp_path: Path
) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    folder = tmp_path / "registry"
    folder.mkdir()
    process, port = start_registry(folder, htpasswd=tmp_path / "htpasswd")
    try:
        subprocess.run(
            [
                *(
                    "skopeo",
                    "copy",
                    "-q",
                    "--preserve-digests",
                    "--src-tls-verify=false",
                    "--dest-tls-verify=false",
                ),
                *("--dest-creds=me:secret", f"docker://127.0.0.1:{pushed.port}/team/app:oci"),
                f"docker://127.0.0.1:{port}/team/app:oci",
            ],
            check=True,
        )
        host = f"127.0.0.1:{port}"
        with pytest.raises(EnvbuildError, match="asks for a password") as caught:
            pull(store, http, host, pushed.oci)
        assert caught.value.id == "not-allowed"
        environ = docker_config(tmp_path / "docker", {"auths": {host: {"auth": auth("me:secret")}}})
        assert_right(store, pull(store, http, host, pushed.oci, environ=environ), pushed)
    finally:
        process.terminate()
        process.wait()
