"""A proxy before a real registry on 127.0.0.1: it asks for tokens, cuts, delays, refuses, flips bytes, lies."""

from __future__ import annotations

import base64
import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_WRITES = {"POST", "PUT", "PATCH", "DELETE"}
_PIECE = 1 << 16


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RegistryProxy

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        owner = self.server
        self.left = int(self.headers["Content-Length"] or 0)
        with owner.guard:
            owner.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            owner.calls.append(f"{self.command} {self.path}")
        try:
            if self.path.startswith("/token"):
                self.give_token()
            elif owner.token is not None and self.headers.get("Authorization") != f"Bearer {owner.token}":
                self.challenge()
            elif (fault := owner.fault(f"{self.command} {self.path}")) is None:
                self.forward()
            else:
                fault(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def challenge(self) -> None:
        name = self.path.removeprefix("/v2/").partition("/manifests/")[0].partition("/blobs/")[0]
        verbs = "pull,push" if self.command in _WRITES else "pull"
        realm = f'Bearer realm="{self.server.realm}",service="the registry",scope="repository:{name}:{verbs}"'
        self.send(401, b"{}", WWW_Authenticate=realm)

    def give_token(self) -> None:
        owner = self.server
        if self.command == "POST":
            form = {name: values[0] for name, values in parse_qs(b"".join(self.body()).decode()).items()}
            owner.token_requests.append({"method": "POST", **form})
            known = form.get("refresh_token") == owner.identity_token
            self.send(
                200 if known else 401, json.dumps({"access_token": owner.token}).encode() if known else b"{}"
            )
            return
        query = {name: " ".join(values) for name, values in parse_qs(urlsplit(self.path).query).items()}
        owner.token_requests.append({"method": "GET", **query, "auth": self.headers.get("Authorization", "")})
        wanted = owner.account and "Basic " + base64.b64encode(owner.account.encode()).decode()
        if wanted and self.headers.get("Authorization") != wanted:
            self.send(401, b"{}")
            return
        self.send(200, json.dumps({"token": owner.token, "expires_in": owner.life}).encode())

    def body(self, limit: int | None = None) -> Iterator[bytes]:
        """The request's body, ``limit`` bytes of it at most."""
        rest = self.left if limit is None else min(limit, self.left)
        while rest and (piece := self.rfile.read(min(rest, _PIECE))):
            rest -= len(piece)
            self.left -= len(piece)
            yield piece

    def send(self, status: int, body: bytes, **headers: str) -> None:
        for _ in self.body():
            pass
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def forward(
        self,
        *,
        change: Callable[[bytes], bytes] | None = None,
        change_sent: Callable[[bytes], bytes] | None = None,
        cut: int | None = None,
        keep: int | None = None,
        answer: bool = True,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Ask the registry.

        Args:
            change: what becomes of the answer's body.
            change_sent: what becomes of each piece of the request's body.
            cut: bytes of the answer's body after which the connection ends.
            keep: bytes of the request's body that the registry gets.
            answer: whether the client hears of it.
            headers: of the answer, in place of the registry's.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=20)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name in ("Host", "Accept", "Range", "If-Range", "Content-Range", "Content-Type", "Authorization"):
            if self.headers[name] and not (name == "Authorization" and self.server.token is not None):
                connection.putheader(name, self.headers[name])
        connection.putheader("Content-Length", str(self.left if keep is None else min(keep, self.left)))
        connection.endheaders()
        for piece in self.body(keep):
            connection.send(piece if change_sent is None else change_sent(piece))
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if not answer:
            self.hang_up()
            return
        if change is not None:
            body = change(body)
        self.send_response(response.status)
        for name, value in {**dict(response.headers.items()), **(headers or {})}.items():
            if name.lower() not in {"content-length", "date", "server", "connection", "transfer-encoding"}:
                self.send_header(name, value)
        length = response.headers["Content-Length"] if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def hang_up(self) -> None:
        """End the connection without an answer, and without reading the rest."""
        self.close_connection = True


Fault = Callable[[Handler], None]


def cut(after: int) -> Fault:
    return lambda handler: handler.forward(cut=after)


def status(code: int, **headers: str) -> Fault:
    return lambda handler: handler.send(code, b"{}", **headers)


def delay(seconds: float) -> Fault:
    def wait(handler: Handler) -> None:
        time.sleep(seconds)
        handler.forward()

    return wait


def refuse(code: int, error: str, message: str = "", **headers: str) -> Fault:
    """An error as registries word it."""
    body = json.dumps({"errors": [{"code": error, "message": message}]}).encode()
    return lambda handler: handler.send(code, body, **headers)


def cut_upload(after: int) -> Fault:
    """The registry gets ``after`` bytes of the body, and the client no answer."""
    return lambda handler: handler.forward(keep=after, answer=False)


def lose_upload(after: int) -> Fault:
    """As a proxy that holds bodies back: the registry gets nothing, and the client no answer."""

    def lose(handler: Handler) -> None:
        for _ in handler.body(after):
            pass
        handler.hang_up()

    return lose


def lose_answer(handler: Handler) -> None:
    """The registry does what it is asked, and the client hears nothing of it."""
    handler.forward(answer=False)


def flip_sent(handler: Handler) -> None:
    handler.forward(change_sent=lambda piece: bytes([piece[0] ^ 1]) + piece[1:])


def claim(**headers: str) -> Fault:
    """The registry's answer with other headers."""
    return lambda handler: handler.forward(
        headers={name.replace("_", "-").title(): value for name, value in headers.items()}
    )


def expire(handler: Handler) -> None:
    """The token ends now, whatever was said of its life."""
    handler.server.token = f"{handler.server.token}-new"
    handler.challenge()


def flip(at: int) -> Fault:
    return lambda handler: handler.forward(
        change=lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] if len(body) > at else body
    )


def changed(change: Callable[[bytes], bytes]) -> Fault:
    return lambda handler: handler.forward(change=change)


def stall(handler: Handler) -> None:
    handler.server.closing.wait(30)
    handler.close_connection = True


def redirect(to: str) -> Fault:
    return lambda handler: handler.send(307, b"", Location=to + handler.path)


class RegistryProxy(ThreadingHTTPServer):
    """``faults`` are (pattern of verb and path, fault, whether it stays); ``calls`` are verbs and paths."""

    daemon_threads = True

    def __init__(self, upstream: int, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), Handler)
        self.upstream = upstream
        self.host = f"{address}:{self.server_port}"
        self.realm = f"http://{self.host}/token"
        self.faults: list[tuple[str, Fault, bool]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.calls: list[str] = []
        self.token_requests: list[dict[str, str]] = []
        self.token: str | None = None
        self.identity_token = ""
        self.account: str | None = None
        self.life = 300
        self.guard = threading.Lock()
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def fault(self, call: str) -> Fault | None:
        """The fault whose turn it is."""
        with self.guard:
            for item in self.faults:
                if re.search(item[0], call):
                    if not item[2]:
                        self.faults.remove(item)
                    return item[1]
        return None

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests; nothing is printed."""

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
