"""A registry whose documents, headers and addresses are malformed: one error each, and nothing of it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faulty_server import Fault, FaultyServer, Handler, redirect

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import of_bytes
from envbuild.progress import SilentProgress
from envbuild.registry import Remote, parse_image_name, parse_repository, pull_image
from envbuild.registry.authorization import _parse
from envbuild.registry.credentials import find_credentials
from envbuild.store import Http, Keep, Store, collect
from envbuild.store.http import _retry_after, number

DEEP = b"[" * 100_000
BAD_DIGESTS = [
    "",
    "x",
    "sha256:",
    "sha256:../../etc",
    "sha256:" + "A" * 64,
    "sha256:" + "0" * 64 + "\n",
    7,
    None,
]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


def says(data: bytes, status: int = 200, **headers: str) -> Fault:
    return lambda handler, _: handler.answer(status, data, **headers)


def head_or_get(handler: Handler) -> None:
    handler.do_GET()


@pytest.fixture(autouse=True)
def _heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers HEAD as GET; the client reads no body then and closes."""
    monkeypatch.setattr(Handler, "do_HEAD", head_or_get, raising=False)


def remote_of(server: FaultyServer, http: Http, environ: dict[str, str] | None = None) -> Remote:
    name = parse_repository(f"127.0.0.1:{server.server_port}/team/app")
    return Remote(name, http=http, environ=environ or {})


def pull(server: FaultyServer, http: Http, store: Store, manifest: bytes) -> object:
    digest = of_bytes(manifest)
    server.files[f"/v2/team/app/manifests/{digest}"] = manifest
    name = parse_image_name(f"127.0.0.1:{server.server_port}/team/app@{digest}")
    return pull_image(name, store=store, http=http, environ={}, jobs=1, progress=SilentProgress())


def refused(run: Callable[[], object], *ids: str) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        run()
    assert caught.value.id in ids, (caught.value.id, caught.value.message)
    assert caught.value.hint
    return caught.value


def manifest(**changes: object) -> bytes:
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": of_bytes(b"{}"), "size": 2}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [], **changes}).encode()


@pytest.mark.parametrize("bad", BAD_DIGESTS)
@pytest.mark.parametrize("member", ["subject", "config", "layers", "manifests"])
def test_a_manifest_with_a_malformed_digest_is_refused_and_not_kept(
    server: FaultyServer, http: Http, store: Store, member: str, bad: object
) -> None:
    entry = {"mediaType": MANIFEST, "digest": bad, "size": 1}
    data = manifest(**{member: entry if member in {"subject", "config"} else [entry]})
    error = refused(lambda: pull(server, http, store, data), "unusable-image")
    assert error.exit == Exit.INPUT
    assert f"$.{member}" in error.message
    assert list(store.layout.blobs()) == []
    collect(store, Keep(), progress=SilentProgress())


@pytest.mark.parametrize(
    "data",
    [
        DEEP,
        b'{"schemaVersion": 2, "config": ' + DEEP,
        b"\0",
        b"1" * 9999,
        b"[]",
        b"",
        b'{"schemaVersion": NaN}',
    ],
)
def test_a_manifest_that_is_none_is_refused(
    server: FaultyServer, http: Http, store: Store, data: bytes
) -> None:
    refused(lambda: pull(server, http, store, data), "unusable-image")
    remote = remote_of(server, http)
    server.files["/v2/team/app/tags/list"] = data
    refused(remote.tags, "registry-failed")
    server.files[f"/v2/team/app/referrers/{of_bytes(b'x')}"] = data
    refused(lambda: remote.referrers(of_bytes(b"x")), "registry-failed")


@pytest.mark.parametrize("size", [-1, True, "1", 1.5, None])
def test_a_size_that_is_none_is_refused(server: FaultyServer, http: Http, store: Store, size: object) -> None:
    data = manifest(
        config={
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": of_bytes(b""),
            "size": size,
        }
    )
    refused(lambda: pull(server, http, store, data), "unusable-image")
    entry = {"mediaType": MANIFEST, "digest": of_bytes(b"x"), "size": size}
    server.files[f"/v2/team/app/referrers/{of_bytes(b'x')}"] = json.dumps({"manifests": [entry]}).encode()
    refused(lambda: remote_of(server, http).referrers(of_bytes(b"x")), "registry-failed")


@pytest.mark.parametrize("digest", ["sha256:", "sha256:../../x", "sha256:" + "A" * 64])
def test_a_header_that_is_no_digest_is_refused(server: FaultyServer, http: Http, digest: str) -> None:
    server.always["/v2/team/app/manifests/v1"] = says(
        manifest(), Docker_Content_Digest=digest, Content_Type=MANIFEST
    )
    refused(lambda: remote_of(server, http).head("v1"), "registry-lies")
    refused(lambda: remote_of(server, http).manifest("v1"), "registry-lies")


@pytest.mark.parametrize("digest", ["../../../other/blobs/x", "", "sha256:" + "g" * 64])
def test_only_a_digest_is_asked_for(server: FaultyServer, http: Http, digest: str) -> None:
    remote = remote_of(server, http)
    for ask in (
        lambda: remote.blob(digest, limit=9),
        lambda: remote.has(digest),
        lambda: remote.source(digest),
    ):
        refused(ask, "bad-digest")
    assert server.requests == []


@pytest.mark.parametrize(
    "address",
    [
        "http://[",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:-1/",
        "http://127.0.0.1:x/",
        "http://127.0.0.1:0/",
        "//",
    ],
)
def test_an_address_that_is_none_is_told(server: FaultyServer, http: Http, address: str) -> None:
    blob = of_bytes(b"x")
    server.always[f"/v2/team/app/blobs/{blob}"] = redirect(address)
    refused(lambda: remote_of(server, http).blob(blob, limit=9), "registry-failed")
    server.always["/v2/team/app/tags/list"] = says(b"{}", Link=f'<{address}>; rel="next"')
    refused(remote_of(server, http).tags, "registry-failed")
    with pytest.raises(EnvbuildError) as caught:
        http.get(f"{server.url}/v2/team/app/blobs/{blob}")
    assert caught.value.id == "source-failed"
    with pytest.raises(EnvbuildError) as caught:
        http.get(address if address != "//" else "http:///x")
    assert caught.value.id == "source-failed"
    challenge = f'Bearer realm="{address}",service="x"'
    server.always[f"/v2/team/app/blobs/{blob}"] = says(b"{}", 401, WWW_Authenticate=challenge)
    refused(lambda: remote_of(server, http).blob(blob, limit=9), "not-allowed", "registry-failed")


@pytest.mark.parametrize("registry", ["127.0.0.1:99999", "127.0.0.1:0", "localhost:65536"])
def test_a_port_that_is_none_is_no_registry(registry: str) -> None:
    refused(lambda: parse_repository(f"{registry}/team/app"), "bad-repository")
    refused(lambda: parse_image_name(f"{registry}/team/app:v1"), "bad-image-reference")


@pytest.mark.parametrize(
    "answer",
    [
        DEEP,
        b"\0",
        b'{"token": 7}',
        b'{"token": "t", "expires_in": 1' + b"0" * 400 + b"}",
        b'{"token": "t", "expires_in": NaN}',
    ],
    ids=["nested", "nul", "a number", "a long life", "no number"],
)
def test_a_token_that_is_none_is_told(server: FaultyServer, http: Http, answer: bytes) -> None:
    blob = of_bytes(b"x")
    challenge = f'Bearer realm="{server.url}/token",service="x"'
    server.always[f"/v2/team/app/blobs/{blob}"] = says(b"{}", 401, WWW_Authenticate=challenge)
    server.files["/token"] = answer
    refused(lambda: remote_of(server, http).blob(blob, limit=9), "not-allowed")


@pytest.mark.parametrize(
    "challenge", ["", "Bearer", "Bearer realm", "x" * 60_000, "Bearer " + "=" * 60_000, 'Bearer realm="']
)
def test_a_challenge_that_is_none_is_told(server: FaultyServer, http: Http, challenge: str) -> None:
    blob = of_bytes(b"x")
    server.always[f"/v2/team/app/blobs/{blob}"] = says(b"{}", 401, WWW_Authenticate=challenge)
    refused(lambda: remote_of(server, http).blob(blob, limit=9), "not-allowed")


def test_a_long_challenge_takes_no_time() -> None:
    """Quadratic, a million letters take hours."""
    assert _parse("Bearer " + "a" * 1_000_000) == ("bearer", {})


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "nan",
        "-1",
        "1e400",
        "²",
        "1" * 9999,
        "Fri, 99 Foo 0000 99:99:99 GMT",
        "Mon, 01 Jan 0001 00:00:00 -9999",
        "\0",
    ],
)
def test_a_pause_that_is_none_is_no_pause(text: str) -> None:
    pause = _retry_after(text)
    assert pause is None or pause >= 0


@pytest.mark.parametrize("length", ["²", "1" * 5000, "-1", "1_0", "0x10", "+5"])
def test_a_length_that_is_none_is_not_counted(server: FaultyServer, http: Http, length: str) -> None:
    def fault(handler: Handler, _: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", MANIFEST)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.close_connection = True

    assert number(length) is None
    server.always["/v2/team/app/manifests/v1"] = fault
    with suppress(EnvbuildError):  # what the HTTP library itself refuses
        found = remote_of(server, http).head("v1")
        assert found is not None
        assert (found.digest, found.size) == (of_bytes(b""), 0)


def test_pages_without_end_are_not_collected(server: FaultyServer, http: Http) -> None:
    page = json.dumps({"tags": ["v1"], "more": "x" * (15 << 20)}).encode()
    server.always["/v2/team/app/tags/list"] = says(page, Link='<?next>; rel="next"')
    error = refused(remote_of(server, http).tags, "registry-failed")
    assert "bytes of pages" in error.message


def test_tags_that_are_none_are_not_listed(server: FaultyServer, http: Http) -> None:
    tags = ["v1", "../x", "a b", "\x1b[31m", 7, None, "x" * 200]
    server.files["/v2/team/app/tags/list"] = json.dumps({"tags": tags}).encode()
    assert remote_of(server, http).tags() == ["v1"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"auths": ' + "[" * 100_000,
        "\0",
        '{"credsStore": "../../tmp/x"}',
        '{"credsStore": "a\\u0000b"}',
        '{"auths": {"r.example": {"auth": "\\u0000"}}}',
        '{"auths": {"r.example": {"auth": "/w=="}}}',
    ],
)
def test_a_file_of_credentials_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    environ = {"DOCKER_CONFIG": str(tmp_path), "PATH": "/usr/bin"}
    error = refused(lambda: find_credentials(("r.example",), environ), "registry-credentials")
    assert error.exit == Exit.USAGE
