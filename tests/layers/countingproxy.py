"""A proxy before a registry on 127.0.0.1 that counts what it hands out, by path."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_KEPT = ("Accept", "Range")
_ANSWERED = (
    "Content-Type",
    "Content-Length",
    "Content-Range",
    "Accept-Ranges",
    "Docker-Content-Digest",
    "ETag",
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CountingProxy

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=20)
        try:
            names = [name for name in _KEPT if self.headers[name]]
            upstream.request(self.command, self.path, headers={name: self.headers[name] for name in names})
            answer = upstream.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name in _ANSWERED:
                if name != "Content-Length" and answer.headers[name]:
                    self.send_header(name, answer.headers[name])
            length = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body)
            self.server.sent[self.path.rpartition("/")[2]] += len(body)
        finally:
            upstream.close()

    do_HEAD = do_GET


class CountingProxy(ThreadingHTTPServer):
    """``sent``: bytes of bodies, by the last part of the path: a blob's or manifest's digest, or a tag."""

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.sent: Counter[str] = Counter()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"


@contextmanager
def counting_proxy(upstream: int) -> Iterator[CountingProxy]:
    """A proxy before the registry on the port ``upstream``."""
    with CountingProxy(upstream) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
