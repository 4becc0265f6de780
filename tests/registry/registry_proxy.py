"""A proxy before a real registry on 127.0.0.1: it asks for tokens, cuts, delays, refuses, flips bytes, redirects."""

from __future__ import annotations

import base64
import http.client
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RegistryProxy

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self.server.token_requests.append({"method": "POST", **form})
        known = form.get("refresh_token") == self.server.identity_token
        self.send(
            200 if known else 401,
            json.dumps({"access_token": self.server.token}).encode() if known else b"{}",
        )

    def do_GET(self) -> None:
        owner = self.server
        with owner.guard:
            owner.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            faults = [item for item in owner.faults if re.search(item[0], self.path)]
            fault = faults[0][1] if faults else None
            if faults and not faults[0][2]:
                owner.faults.remove(faults[0])
        if self.path.startswith("/token"):
            self.give_token()
            return
        if owner.token is not None and self.headers.get("Authorization") != f"Bearer {owner.token}":
            scope = "repository:team/app:pull"
            challenge = f'Bearer realm="{owner.realm}",service="the registry",scope="{scope}"'
            self.send(401, b"{}", WWW_Authenticate=challenge)
            return
        try:
            if fault is None:
                self.forward()
            else:
                fault(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def give_token(self) -> None:
        owner = self.server
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        owner.token_requests.append({"method": "GET", **query, "auth": self.headers.get("Authorization", "")})
        wanted = owner.account and "Basic " + base64.b64encode(owner.account.encode()).decode()
        if wanted and self.headers.get("Authorization") != wanted:
            self.send(401, b"{}")
            return
        self.send(200, json.dumps({"token": owner.token, "expires_in": owner.life}).encode())

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def forward(self, *, change: Callable[[bytes], bytes] | None = None, cut: int | None = None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=20)
        names = ("Accept", "Range", "If-Range", "Authorization")
        sent = {name: self.headers[name] for name in names if self.headers[name]}
        if self.server.token is not None:
            sent.pop("Authorization", None)
        connection.request("GET", self.path, headers=sent)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if change is not None:
            body = change(body)
        self.send_response(answer.status)
        for name in ("Content-Type", "Content-Range", "ETag", "Docker-Content-Digest", "WWW-Authenticate"):
            if answer.headers[name]:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


Fault = Callable[[Handler], None]


def cut(after: int) -> Fault:
    return lambda handler: handler.forward(cut=after)


def status(code: int, **headers: str) -> Fault:
    return lambda handler: handler.send(code, b"{}", **headers)


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
    """``faults`` are (pattern of the path, fault, whether it stays)."""

    daemon_threads = True

    def __init__(self, upstream: int, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), Handler)
        self.upstream = upstream
        self.host = f"{address}:{self.server_port}"
        self.realm = f"http://{self.host}/token"
        self.faults: list[tuple[str, Fault, bool]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.token_requests: list[dict[str, str]] = []
        self.token: str | None = None
        self.identity_token = ""
        self.account: str | None = None
        self.life = 300
        self.guard = threading.Lock()
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests; nothing is printed."""

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
