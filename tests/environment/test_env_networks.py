"""Proxies, private authorities, passwords: as for everything that envbuild fetches, and as conda is told."""

from __future__ import annotations

import base64
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from envworld import World, said
from faulty_server import FaultyServer

from envbuild.errors import EnvbuildError

FAR = "http://channel.invalid"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself."""
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-out", "ca.pem", "-days", "30", *names],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    return tmp_path / "ca.pem"


@pytest.fixture
def secure(authority: Path, server: FaultyServer) -> Iterator[str]:
    """What ``server`` has, over TLS; the address of its channel."""
    other = FaultyServer()
    other.files = server.files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, authority.with_name("key.pem"))
    other.socket = context.wrap_socket(other.socket, server_side=True)
    yield f"https://127.0.0.1:{other.server_port}/small/"
    other.close()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_private_authority_that_the_machine_trusts(
    world: World, secure: str, authority: Path, variable: str
) -> None:
    made = world.create(channel=secure, environ={variable: str(authority)})
    assert said(made.prefix / "bin/greet") == "hello\n"


def test_an_authority_that_conda_is_told_of(world: World, secure: str, authority: Path) -> None:
    (world.folder / ".condarc").write_text(f"ssl_verify: {authority}\n")
    world.create(channel=secure)


def test_an_authority_that_nobody_trusts(world: World, secure: str) -> None:
    with pytest.raises(EnvbuildError, match="certificate that is not trusted") as caught:
        world.create(channel=secure)
    assert "SSL_CERT_FILE" in caught.value.hint
    assert not (world.folder / "env").exists()


def behind_a_proxy(world: World) -> None:
    for path in [path for path in world.server.files if path.startswith("/small/")]:
        world.server.files[FAR + path] = world.server.files.pop(path)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy(world: World, variable: str) -> None:
    behind_a_proxy(world)
    proxy = f"http://pat:word@127.0.0.1:{world.server.server_port}"
    world.create(channel=f"{FAR}/small", environ={variable: proxy})
    expected = "Basic " + base64.b64encode(b"pat:word").decode()
    assert {
        headers["proxy-authorization"] for path, headers in world.server.requests if path.startswith(FAR)
    } == {expected}


def test_a_proxy_that_conda_is_told_of(world: World) -> None:
    behind_a_proxy(world)
    (world.folder / ".condarc").write_text(f"proxy_servers:\n  http: {world.server.url}\n")
    world.create(channel=f"{FAR}/small")


def test_a_password_in_the_address_is_sent_and_never_shown(world: World) -> None:
    secret = world.channel.replace("http://", "http://me:hidden@")
    world.create(channel=secret)
    sent = {headers.get("authorization") for path, headers in world.server.requests if "/small/" in path}
    assert sent == {"Basic " + base64.b64encode(b"me:hidden").decode()}
    kept = [*(world.folder / "env/conda-meta").iterdir()]
    assert not any("hidden" in path.read_text() for path in kept)
    world.server.files.clear()
    with pytest.raises(EnvbuildError) as caught:
        world.create(channel=secret, prefix="two", store="cold")
    assert "hidden" not in f"{caught.value.message} {caught.value.hint} {caught.value.where}"
