"""A real HTTP server on 127.0.0.1 whose answers can go wrong in the ways that real ones do."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        owner = self.server
        path = self.path.split("?")[0]
        with owner.guard:
            owner.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            queue = owner.faults[path]
            fault = queue.pop(0) if queue else owner.always.get(path)
        data = owner.files.get(path)
        try:
            if fault is not None:
                fault(self, data or b"")
            elif data is None:
                self.answer(404, b"")
            else:
                self.serve(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_CONNECT(self) -> None:
        """A proxy's tunnel: every host is the server at ``tunnel``."""
        owner = self.server
        owner.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if owner.tunnel is None:
            self.answer(403, b"")
            return
        with socket.create_connection(("127.0.0.1", owner.tunnel)) as far:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pump, args=(far, self.connection))
            back.start()
            _pump(self.connection, far)
            back.join()
        self.close_connection = True

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self, data: bytes, *, ranges: bool = True, cut: int | None = None) -> None:
        """The file as a good server sends it; ``cut`` closes the connection after that many bytes."""
        etag = self.server.etags.get(self.path.split("?")[0])
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if ranges else None
        start = int(match[1]) if match else 0
        if self.headers.get("If-Range") not in {None, etag}:
            start, match = 0, None
        if match and start >= len(data):
            self.answer(416, b"")
            return
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:] if cut is None else data[start : start + cut]
        for offset in range(0, len(body), 1 << 16):
            self.wfile.write(body[offset : offset + (1 << 16)])
            if self.server.pause:
                time.sleep(self.server.pause)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


Fault = Callable[[Handler, bytes], None]


def cut(after: int) -> Fault:
    return lambda handler, data: handler.serve(data, cut=after)


def status(code: int, **headers: str) -> Fault:
    return lambda handler, data: handler.answer(code, b"no", **headers)


def no_range(handler: Handler, data: bytes) -> None:
    handler.serve(data, ranges=False)


def no_range_cut(after: int) -> Fault:
    return lambda handler, data: handler.serve(data, ranges=False, cut=after)


def other(data: bytes) -> Fault:
    return lambda handler, _: handler.serve(data)


def flipped(at: int) -> Fault:
    return lambda handler, data: handler.serve(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def announces(length: int) -> Fault:
    """Says another length than it has, then sends what it has and closes."""

    def fault(handler: Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(data[:length])
        handler.close_connection = True

    return fault


def unannounced(length: int) -> Fault:
    """No Content-Length: the end of the connection is the end of the body, at ``length``."""

    def fault(handler: Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(data[:length])
        handler.close_connection = True

    return fault


def wrong_range(handler: Handler, data: bytes) -> None:
    """Answers a range request with the file's beginning, labelled as such."""
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-9/{len(data)}")
    handler.send_header("Content-Length", "10")
    handler.end_headers()
    handler.wfile.write(data[:10])


def stall(seconds: float) -> Fault:
    def fault(handler: Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        handler.wfile.flush()
        handler.server.closing.wait(seconds)
        handler.close_connection = True

    return fault


def redirect(url: str) -> Fault:
    return lambda handler, data: handler.answer(302, b"", Location=url)


class FaultyServer(ThreadingHTTPServer):
    """``files`` by path; ``faults[path]`` is what the next requests meet, ``always[path]`` every later one."""

    daemon_threads = True

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), Handler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.guard = threading.Lock()
        self.closing = threading.Event()
        self.pause = 0.0
        self.tunnel: int | None = None
        self.url = f"http://{address}:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what these tests are about; nothing is printed."""

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each request for ``path``, in order."""
        return [headers.get("range") for name, headers in self.requests if name.split("?")[0] == path]
