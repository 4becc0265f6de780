"""A server that sends a byte now and then does not hold a command: the attempt ends, and so do the tries."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faulty_server import FaultyServer, stall

from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import SilentProgress
from envbuild.registry import Remote, parse_repository
from envbuild.store import Http, Source, Store, Wanted, fetch
from envbuild.store.faults import Fault
from envbuild.store.pace import Pace
from envbuild.store.retry import Patience

HEAD = b"HTTP/1.1 200 OK\r\n"
Talk = Callable[[socket.socket, threading.Event], None]


class Dripping:
    """A server that talks to each connection as it is told, and never ends by itself."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.closing = threading.Event()
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(1 << 16)
            self._talk(connection, self.closing)

    def close(self) -> None:
        self.closing.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def drip(start: bytes, drop: bytes) -> Talk:
    """Send ``start``, then ``drop`` some twenty times a second."""

    def talk(connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(start)
        while not closing.wait(0.05):
            connection.sendall(drop)

    return talk


def flood(start: bytes, more: bytes) -> Talk:
    """Send ``start``, then ``more`` as fast as it goes."""

    def talk(connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(start)
        while not closing.is_set():
            connection.sendall(more)

    return talk


@pytest.fixture
def dripping() -> Iterator[Callable[[Talk], Dripping]]:
    servers: list[Dripping] = []

    def make(talk: Talk) -> Dripping:
        servers.append(Dripping(talk))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def http(tmp_path: Path) -> Http:
    """A window of 0.3 seconds; byte for byte the server would always be in time."""
    return Http(
        environ={"HOME": str(tmp_path)},
        read_timeout=30,
        pace=Pace(seconds=0.3, least=1000),
        patience=Patience(tries=5, first=0.01, longest=0.02, longest_stall=0.7),
    )


@pytest.fixture
def patient(tmp_path: Path) -> Http:
    """What must not end has time: a busy machine makes no server slow."""
    patience = Patience(tries=5, first=0.01, longest=0.02, longest_stall=30)
    return Http(
        environ={"HOME": str(tmp_path)}, read_timeout=30, pace=Pace(seconds=3, least=1000), patience=patience
    )


SLOW = {
    "status line": drip(b"", b"H"),
    "headers": drip(HEAD + b"X: ", b"x"),
    "body": drip(HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
    "body without a length": drip(HEAD + b"Connection: close\r\n\r\n", b"x"),
    "chunks": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "the size of a chunk": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: x\r\n"),
    "interim answers": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "nothing": drip(b"", b""),
}


@pytest.mark.parametrize("talk", SLOW.values(), ids=SLOW)
def test_a_dripping_answer_ends_after_two_tries(
    http: Http, dripping: Callable[[Talk], Dripping], talk: Talk
) -> None:
    server = dripping(talk)
    with pytest.raises(EnvbuildError) as caught:
        http.get(f"{server.url}/a", label="the index")
    assert (caught.value.id, caught.value.exit) == ("source-failed", Exit.NETWORK)
    assert "in 0.3 seconds" in caught.value.message or "for 0.3 seconds" in caught.value.message
    assert server.connections == 2


@pytest.mark.parametrize(
    "talk",
    [
        flood(b"", b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 60_000 + b"\r\n\r\n"),
        flood(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: " + b"x" * 60_000 + b"\r\n"),
    ],
    ids=["interim answers", "trailers"],
)
def test_headers_without_end_are_not_read_for_ever(
    http: Http, dripping: Callable[[Talk], Dripping], talk: Talk
) -> None:
    server = dripping(talk)
    with pytest.raises(EnvbuildError) as caught:
        http.get(f"{server.url}/a")
    assert (caught.value.id, caught.value.exit) == ("source-failed", Exit.NETWORK)


def test_a_dripping_file_is_given_up_and_its_bytes_are_kept(
    http: Http, store: Store, dripping: Callable[[Talk], Dripping]
) -> None:
    """Every try brings a byte, and yet they end: a byte is no progress."""
    data = b"x" * 100_000
    server = dripping(drip(HEAD + b"Content-Length: 100000\r\n\r\n", b"x"))
    sha256 = hashlib.sha256(data).hexdigest()
    wanted = Wanted(
        name="torch", file="torch.whl", sha256=sha256, size=len(data),
        sources=(Source(url=f"{server.url}/a", label="the index"),),
    )  # fmt: skip
    with pytest.raises(EnvbuildError) as caught:
        fetch(store, [wanted], http=http, jobs=1, progress=SilentProgress())
    assert (caught.value.id, caught.value.exit) == ("source-failed", Exit.NETWORK)
    assert "in 0.3 seconds" in caught.value.message
    assert server.connections == 2


def test_a_dripping_registry_is_given_up(http: Http, dripping: Callable[[Talk], Dripping]) -> None:
    for talk in (SLOW["headers"], SLOW["body"]):
        server = dripping(talk)
        remote = Remote(parse_repository(f"127.0.0.1:{server.port}/team/app"), http=http, environ={})
        with pytest.raises(EnvbuildError) as caught:
            remote.manifest("v1")
        assert (caught.value.id, caught.value.exit) == ("registry-failed", Exit.NETWORK)
        assert server.connections == 2


def test_a_dripping_proxy_is_given_up(tmp_path: Path, dripping: Callable[[Talk], Dripping]) -> None:
    server = dripping(drip(b"HTTP/1.1 200 OK\r\n", b"X"))
    http = Http(
        environ={"HOME": str(tmp_path), "https_proxy": server.url},
        pace=Pace(seconds=0.3, least=1000),
        patience=Patience(tries=5, first=0.01, longest_stall=0.7),
    )
    with pytest.raises(EnvbuildError) as caught:
        http.get("https://files.example.invalid/a")
    assert (caught.value.id, caught.value.exit) == ("source-failed", Exit.NETWORK)
    assert server.connections == 2


def test_a_slow_reader_is_not_the_servers_fault(patient: Http, server: FaultyServer) -> None:
    """Only waiting counts: a full disk's pause between two reads breaks no pace."""
    server.files["/a"] = b"x" * 3_000_000
    pause = threading.Event()
    with patient.open(f"{server.url}/a") as response:
        total = 0
        for chunk in response.chunks():
            if total == 0:
                pause.wait(4)
            total += len(chunk)
    assert total == 3_000_000


def test_an_answer_that_keeps_the_pace_may_take_long(patient: Http, server: FaultyServer) -> None:
    server.files["/a"] = b"x" * 500_000
    server.pause = 0.5
    assert len(patient.get(f"{server.url}/a")) == 500_000


def test_a_registry_may_think_about_what_was_written(
    http: Http, dripping: Callable[[Talk], Dripping]
) -> None:
    """Hashing gigabytes takes a registry longer than a window: only what is read has to keep the pace."""

    def talk(connection: socket.socket, closing: threading.Event) -> None:
        closing.wait(0.8)
        connection.sendall(b"HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    server = dripping(talk)
    with http.open(f"{server.url}/a", method="PUT", body=b"x") as response:
        assert response.status == 201
    with pytest.raises(Fault, match=r"0\.3 seconds"), http.open(f"{server.url}/a"):
        pass


def test_a_connection_is_used_again_with_its_own_timeout(patient: Http, server: FaultyServer) -> None:
    server.files["/a"] = b"x"
    ports = set()
    for _ in range(3):
        with patient.open(f"{server.url}/a") as response:
            connection = response._body._connection  # type: ignore[attr-defined]
            ports.add(connection.sock.getsockname()[1])
            assert response.read(10) == b"x"
        assert connection.sock.gettimeout() == 30
    assert len(ports) == 1


def test_a_stall_is_tried_once_more_and_goes_on(patient: Http, server: FaultyServer) -> None:
    server.files["/a"] = b"y" * 100
    server.faults["/a"] = [stall(20)]
    assert patient.get(f"{server.url}/a") == b"y" * 100
