"""Proxies, certificates, credentials and limits, against real servers on 127.0.0.1."""

from __future__ import annotations

import base64
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_server import FaultyServer, redirect, status

from envbuild.errors import EnvbuildError, Exit
from envbuild.store import Http
from envbuild.store.network import Proxies, is_loopback, redacted
from envbuild.store.retry import Patience

QUICK = Patience(tries=2, first=0.01, longest=0.01)
# Connections to this machine never go through a proxy, so the "far" host is a name that only the proxy knows.
FAR = "http://files.example.invalid"


def client(tmp_path: Path, **environ: str) -> Http:
    return Http(environ={"HOME": str(tmp_path), **environ}, read_timeout=2, patience=QUICK)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def second() -> Iterator[FaultyServer]:
    """The same machine by another name: another origin."""
    server = FaultyServer("127.0.0.2")
    yield server
    server.close()


def test_get_reads_the_body(tmp_path: Path, server: FaultyServer) -> None:
    server.files["/a"] = b"hello"
    server.faults["/a"] = [status(503)]
    assert client(tmp_path).get(f"{server.url}/a") == b"hello"


def test_get_refuses_more_than_the_limit(tmp_path: Path, server: FaultyServer) -> None:
    server.files["/a"] = b"x" * 1001
    assert len(client(tmp_path).get(f"{server.url}/a", limit=1001)) == 1001
    with pytest.raises(EnvbuildError, match="more than 1000 bytes"):
        client(tmp_path).get(f"{server.url}/a", limit=1000)
    assert len(server.requests) == 2


def test_get_reads_local_files(tmp_path: Path) -> None:
    (tmp_path / "ä b").write_bytes(b"local")
    assert client(tmp_path).get((tmp_path / "ä b").as_uri()) == b"local"
    with pytest.raises(EnvbuildError) as caught:
        client(tmp_path).get((tmp_path / "none").as_uri())
    assert (caught.value.id, caught.value.exit) == ("not-found", Exit.NETWORK)


@pytest.mark.parametrize(
    ("code", "id"), [(404, "not-found"), (410, "not-found"), (401, "not-allowed"), (403, "not-allowed")]
)
def test_refusals_are_not_tried_again(tmp_path: Path, server: FaultyServer, code: int, id: str) -> None:
    server.always["/a"] = status(code)
    with pytest.raises(EnvbuildError) as caught:
        client(tmp_path).get(f"{server.url}/a", label="index python")
    assert (caught.value.id, caught.value.exit) == (id, Exit.NETWORK)
    assert f"index python answered {code}" in caught.value.message
    assert len(server.requests) == 1


def test_a_server_that_stays_broken_is_given_up(tmp_path: Path, server: FaultyServer) -> None:
    server.always["/a"] = status(500)
    with pytest.raises(EnvbuildError, match="answered 500") as caught:
        client(tmp_path).get(f"{server.url}/a")
    assert caught.value.id == "source-failed"
    assert len(server.requests) == QUICK.tries


def test_credentials_in_the_address_are_sent_and_not_printed(tmp_path: Path, server: FaultyServer) -> None:
    server.always["/a"] = status(403)
    url = f"http://me:p%40ss@127.0.0.1:{server.server_port}/a?key=hidden"
    with pytest.raises(EnvbuildError) as caught:
        client(tmp_path).get(url)
    assert server.requests[0][1]["authorization"] == basic("me", "p@ss")
    text = repr(caught.value.to_dict())
    assert "p%40ss" not in text
    assert "p@ss" not in text
    assert "hidden" not in text


def test_netrc_is_read(tmp_path: Path, server: FaultyServer) -> None:
    server.files["/a"] = b""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login joe password word\n")
    netrc.chmod(0o600)
    client(tmp_path).get(f"{server.url}/a")
    assert server.requests[-1][1]["authorization"] == basic("joe", "word")
    client(tmp_path).get(f"{server.url}/a", headers={"Authorization": "Bearer t"})
    assert server.requests[-1][1]["authorization"] == "Bearer t"
    other = tmp_path / "netrc"
    other.write_text("machine 127.0.0.1 login ann password other\n")
    client(tmp_path, NETRC=str(other)).get(f"{server.url}/a")
    assert server.requests[-1][1]["authorization"] == basic("ann", "other")


def test_a_malformed_netrc_gives_no_credentials(tmp_path: Path, server: FaultyServer) -> None:
    server.files["/a"] = b"x"
    (tmp_path / ".netrc").write_text("machine\nnonsense here")
    assert client(tmp_path).get(f"{server.url}/a") == b"x"
    assert "authorization" not in server.requests[-1][1]


def test_a_redirect_to_another_host_loses_the_credentials(
    tmp_path: Path, server: FaultyServer, second: FaultyServer
) -> None:
    second.files["/b"] = b"there"
    server.always["/a"] = redirect(f"{second.url}/b")
    url = f"http://me:secret@127.0.0.1:{server.server_port}/a"
    assert client(tmp_path).get(url, headers={"X-Api-Key": "k", "Accept": "text/plain"}) == b"there"
    assert server.requests[0][1]["authorization"] == basic("me", "secret")
    seen = second.requests[0][1]
    assert "authorization" not in seen
    assert "x-api-key" not in seen
    assert seen["accept"] == "text/plain"


def test_a_redirect_on_the_same_host_keeps_the_credentials(tmp_path: Path, server: FaultyServer) -> None:
    server.files["/b"] = b"there"
    server.always["/a"] = redirect("/b")
    url = f"http://me:secret@127.0.0.1:{server.server_port}/a"
    assert client(tmp_path).get(url, headers={"X-Api-Key": "k"}) == b"there"
    assert server.requests[1][1]["authorization"] == basic("me", "secret")
    assert server.requests[1][1]["x-api-key"] == "k"


def test_redirects_in_a_circle_end(tmp_path: Path, server: FaultyServer) -> None:
    server.always["/a"] = redirect("/a")
    with pytest.raises(EnvbuildError, match="redirects without end"):
        client(tmp_path).get(f"{server.url}/a")


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_proxy_is_asked(tmp_path: Path, server: FaultyServer, variable: str) -> None:
    server.files[f"{FAR}/a"] = b"by proxy"
    proxy = f"http://pat:word@127.0.0.1:{server.server_port}"
    assert client(tmp_path, **{variable: proxy}).get(f"{FAR}/a") == b"by proxy"
    assert server.requests[0][1]["proxy-authorization"] == basic("pat", "word")


@pytest.mark.parametrize(
    "rule", ["files.example.invalid", "example.invalid", ".example.invalid", "*.example.invalid", "*"]
)
def test_no_proxy_is_honoured(tmp_path: Path, server: FaultyServer, rule: str) -> None:
    server.files[f"{FAR}/a"] = b"by proxy"
    http = client(tmp_path, http_proxy=server.url, no_proxy=f"elsewhere, {rule}")
    with pytest.raises(EnvbuildError, match="host name is not known"):
        http.get(f"{FAR}/a")
    assert server.requests == []


@pytest.mark.parametrize(
    ("rule", "host", "port", "direct"),
    [
        ("10.1.2.3:81", "10.1.2.3", 81, True),
        ("10.1.2.3:81", "10.1.2.3", 82, False),
        ("192.168.0.0/16", "192.168.255.254", None, True),
        ("192.168.0.0/16", "192.169.0.1", None, False),
        ("fd00::/8", "fd00::1", None, True),
        ("ample.org", "example.org", None, False),
        ("EXAMPLE.org", "files.Example.org", None, True),
        (".", "example.org", None, False),
    ],
)
def test_no_proxy_knows_names_networks_and_ports(
    rule: str, host: str, port: int | None, direct: bool
) -> None:
    proxies = Proxies.from_environment({"https_proxy": "http://p:1", "no_proxy": rule})
    assert proxies.proxy_for("https", host, port) == (None if direct else "http://p:1")


def test_this_machine_is_never_asked_through_a_proxy(tmp_path: Path, server: FaultyServer) -> None:
    server.files["/a"] = b"direct"
    assert client(tmp_path, http_proxy="http://127.0.0.1:1").get(f"{server.url}/a") == b"direct"


def test_a_dead_proxy_is_named_as_the_cause(tmp_path: Path) -> None:
    with pytest.raises(EnvbuildError, match="through the proxy") as caught:
        client(tmp_path, http_proxy="http://me:secret@127.0.0.1:1").get(f"{FAR}/a")
    assert "http_proxy" in caught.value.hint
    assert "secret" not in caught.value.message


def test_a_proxy_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvbuildError) as caught:
        client(tmp_path, https_proxy="socks5://me:secret@127.0.0.1:1080")
    assert (caught.value.id, caught.value.exit) == ("bad-proxy", Exit.USAGE)
    assert "secret" not in caught.value.message


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a private authority (ca.pem) and a certificate of the server (server.pem)."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"]
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test authority")
    signed = [
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:files.example.invalid",
        "-addext",
    ]
    openssl(
        *new,
        "-keyout",
        "server.key",
        "-out",
        "server.crt",
        "-subj",
        "/CN=127.0.0.1",
        *signed,
        "basicConstraints=CA:FALSE",
    )
    (folder / "server.pem").write_text(
        (folder / "server.key").read_text() + (folder / "server.crt").read_text()
    )
    return folder


@pytest.fixture
def secure(authority: Path) -> Iterator[str]:
    server = FaultyServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.files["/a"] = b"over tls"
    yield server.url.replace("http:", "https:")
    server.close()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"])
def test_a_private_authority_is_trusted_when_named(
    tmp_path: Path, authority: Path, secure: str, variable: str
) -> None:
    assert client(tmp_path, **{variable: str(authority / "ca.pem")}).get(f"{secure}/a") == b"over tls"


def test_tls_goes_through_the_proxy_and_is_checked(
    tmp_path: Path, authority: Path, secure: str, server: FaultyServer
) -> None:
    server.tunnel = int(secure.rsplit(":", 1)[1])
    proxy = f"http://pat:word@127.0.0.1:{server.server_port}"
    address = FAR.replace("http:", "https:") + "/a"
    assert (
        client(tmp_path, https_proxy=proxy, SSL_CERT_FILE=str(authority / "ca.pem")).get(address)
        == b"over tls"
    )
    assert server.requests[0][0] == "files.example.invalid:443"
    assert server.requests[0][1]["proxy-authorization"] == basic("pat", "word")
    with pytest.raises(EnvbuildError, match="certificate that is not trusted"):
        client(tmp_path, https_proxy=proxy).get(address)


def test_a_proxy_that_refuses_is_named_as_the_cause(tmp_path: Path, server: FaultyServer) -> None:
    with pytest.raises(EnvbuildError, match=r"through the proxy \(.*403") as caught:
        client(tmp_path, https_proxy=server.url).get(FAR.replace("http:", "https:") + "/a")
    assert "https_proxy" in caught.value.hint


def test_an_explicit_bundle_wins(tmp_path: Path, authority: Path, secure: str) -> None:
    http = Http(
        environ={"SSL_CERT_FILE": str(tmp_path / "missing")}, ca_bundle=authority / "ca.pem", read_timeout=2
    )
    assert http.get(f"{secure}/a") == b"over tls"


def test_an_unknown_authority_is_refused(tmp_path: Path, secure: str) -> None:
    with pytest.raises(EnvbuildError, match="certificate that is not trusted") as caught:
        client(tmp_path).get(f"{secure}/a")
    assert "SSL_CERT_FILE" in caught.value.hint


def test_a_certificate_of_another_host_is_refused(tmp_path: Path, authority: Path, secure: str) -> None:
    http = client(tmp_path, SSL_CERT_FILE=str(authority / "ca.pem"))
    with pytest.raises(EnvbuildError, match="certificate that is not trusted"):
        http.get(secure.replace("127.0.0.1", "localhost") + "/a")


def test_plain_http_on_a_tls_address_is_told(tmp_path: Path, server: FaultyServer) -> None:
    with pytest.raises(EnvbuildError) as caught:
        client(tmp_path).get(server.url.replace("http:", "https:") + "/a")
    assert caught.value.exit == Exit.NETWORK


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_bundle_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(EnvbuildError) as caught:
        client(tmp_path, PIP_CERT=str(bundle))
    assert (caught.value.id, caught.value.exit) == ("bad-ca-bundle", Exit.USAGE)
    assert "PIP_CERT" in caught.value.message
    assert str(bundle) in caught.value.message


@pytest.mark.parametrize(
    "url", ["http://[::1/a", "http://host:port/a", "http://a b/", "gopher://x/", "http:///a", "nonsense"]
)
def test_an_address_that_is_none_is_an_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        client(tmp_path).get(url, label="index x")
    assert caught.value.exit == Exit.NETWORK


def test_a_redirect_to_nonsense_is_an_error(tmp_path: Path, server: FaultyServer) -> None:
    server.always["/a"] = redirect("file:///etc/passwd")
    with pytest.raises(EnvbuildError):
        client(tmp_path).get(f"{server.url}/a")


def test_what_may_be_printed_of_an_address() -> None:
    assert redacted("https://u:p@host:1/path/x.whl?sig=1#f") == "https://host:1/path/x.whl"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("localhost.com", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
