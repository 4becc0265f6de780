"""One image of a layout as a read-only registry on 127.0.0.1, for the time of one pull.

Serves the pull half of the OCI distribution specification ("Pull"): GET and HEAD of the manifest and blobs of one
image, by digest, under a repository name that cannot be guessed. Engines take plain HTTP from 127.0.0.0/8.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from envbuild.engine.model import ImageRef
from envbuild.oci.descriptor import CONFIG, MANIFEST


@dataclass(slots=True, kw_only=True)
class Loopback:
    """A running registry: ``repository`` is what an engine pulls from, ``asked`` whether one ever came."""

    repository: str
    asked: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(image: ImageRef) -> Iterator[Loopback]:
    """Serve ``image`` on a free port of 127.0.0.1 while the context lasts."""
    name = f"envbuild-{secrets.token_hex(8)}"
    media = {image.config: CONFIG} | {layer.digest: layer.media_type for layer in image.layers}
    asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            if self.path in ("/v2", "/v2/"):
                return self._send(200, {}, b"{}" if body else b"")
            kind, _, digest = self.path.removeprefix(f"/v2/{name}/").partition("/")
            known = {"manifests": {image.manifest: MANIFEST}, "blobs": media}.get(kind, {}).get(digest)
            if known is None or not self.path.startswith(f"/v2/{name}/"):
                return self._send(404, {}, b'{"errors":[{"code":"NAME_UNKNOWN"}]}')
            asked.set()
            return self._blob(digest, known, body=body)

        def _blob(self, digest: str, media_type: str, *, body: bool) -> None:
            with image.layout.path(digest).open("rb") as stream:
                size = image.layout.path(digest).stat().st_size
                self.send_response(200)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(size))
                self.send_header("Docker-Content-Digest", digest)
                self.end_headers()
                if body:
                    self.wfile.flush()
                    self.connection.sendfile(stream)

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent: the engine's own progress is what the user sees."""

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Loopback(repository=f"127.0.0.1:{server.server_address[1]}/{name}", asked=asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle is the engine's story, told by the engine."""
