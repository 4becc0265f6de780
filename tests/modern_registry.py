"""A stand-in for what Debian's docker-registry 2.8 lacks of distribution 1.1.

Uploads that keep what came before a cut and tell how much that is, the smallest piece that is taken, the referrers API
with ``OCI-Subject``, lists in pages. Everything else is tested on the real one.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"
_RANGE = re.compile(r"(\d+)-(\d+)")


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ModernRegistry

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.calls.append(f"{self.command} {self.path}")
        repository, kind, rest = re.fullmatch(
            r"/v2/(.+?)/(blobs|manifests|referrers|tags)/(.*)", parts.path
        ).groups()  # type: ignore[union-attr]  # the client asks for nothing else
        self.repository = repository
        try:
            getattr(self, kind)(rest)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def blobs(self, rest: str) -> None:
        owner = self.server
        if not rest.startswith("uploads/"):
            data = owner.content.get(rest)
            self.send(404) if data is None else self.send(200, data, Docker_Content_Digest=rest)
        elif self.command == "POST":
            name = f"u{len(owner.uploads)}"
            owner.uploads[name] = bytearray()
            self.begun(202, name)
        elif (name := rest.removeprefix("uploads/")) not in owner.uploads:
            self.body()
            self.send(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
        else:
            getattr(self, f"upload_{self.command.lower()}")(name, owner.uploads[name])

    def begun(self, status: int, name: str) -> None:
        have = len(self.server.uploads[name])
        headers = {"Location": f"/v2/{self.repository}/blobs/uploads/{name}?part={have}&more=1"}
        if self.server.least:
            headers["OCI-Chunk-Min-Length"] = str(self.server.least)
        self.send(status, b"", Range=f"0-{max(0, have - 1)}", **headers)

    def upload_get(self, name: str, _: bytearray) -> None:
        self.begun(204, name)

    def upload_delete(self, name: str, _: bytearray) -> None:
        del self.server.uploads[name]
        self.send(204)

    def upload_patch(self, name: str, held: bytearray) -> None:
        owner = self.server
        match = _RANGE.fullmatch(self.headers["Content-Range"] or "")
        owner.ranges.append(match[0] if match else "")
        if (match and int(match[1]) != len(held)) or (owner.range_faults and owner.range_faults.pop()):
            self.body()
            self.send(416)
            return
        if owner.refuse_pieces == "all" or (owner.refuse_pieces == "second" and held):
            self.body()
            self.send(owner.refusal)
            return
        rest = int(self.headers["Content-Length"])
        while rest and (piece := self.rfile.read(min(rest, 1 << 16))):
            rest -= len(piece)
            held += piece
            if owner.cuts and len(held) >= owner.cuts[0]:
                owner.cuts.pop(0)
                self.close_connection = True
                return
        if owner.lost_answers:
            owner.lost_answers -= 1
            self.close_connection = True
            return
        self.begun(202, name)

    def upload_put(self, name: str, held: bytearray) -> None:
        held += self.body()
        if digest_of(bytes(held)) != self.query["digest"]:
            self.send(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            return
        self.server.content[self.query["digest"]] = bytes(held)
        del self.server.uploads[name]
        self.send(201, Docker_Content_Digest=self.query["digest"], Location="/somewhere")

    def manifests(self, reference: str) -> None:
        owner = self.server
        if self.command == "PUT":
            data = self.body()
            digest = digest_of(data)
            owner.manifest[reference] = owner.manifest[digest] = data
            subject = json.loads(data).get("subject")
            self.send(
                201, Docker_Content_Digest=digest, **({"OCI-Subject": subject["digest"]} if subject else {})
            )
            return
        found = owner.manifest.get(reference)
        if found is None:
            self.send(404)
            return
        headers = {"Docker-Content-Digest": digest_of(found)} if owner.tells_digests else {}
        self.send(200, found, Content_Type=json.loads(found)["mediaType"], **headers)

    def referrers(self, subject: str) -> None:
        values = {digest: json.loads(data) for digest, data in self.server.manifest.items() if ":" in digest}
        entries = [
            {
                "mediaType": value["mediaType"],
                "digest": digest,
                "size": len(self.server.manifest[digest]),
                "artifactType": value["artifactType"],
                "annotations": value.get("annotations", {}),
            }
            for digest, value in values.items()
            if value.get("subject", {}).get("digest") == subject
        ]
        page = int(self.query.get("page", "0"))
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries[page : page + 1]}
        headers = {"Content-Type": INDEX}
        if page + 1 < len(entries):
            headers["Link"] = f'<{urlsplit(self.path).path}?page={page + 1}>; rel="next"'
        self.send(200, json.dumps(index).encode(), **headers)

    def tags(self, _: str) -> None:
        names = sorted(name for name in self.server.manifest if ":" not in name)
        start = int(self.query.get("last", "0"))
        headers = {}
        if start + 2 < len(names) or self.server.endless:
            last = start + (0 if self.server.endless else 2)
            headers["Link"] = f'</v2/{self.repository}/tags/list?n=2&last={last}>; rel="next"'
        self.send(200, json.dumps({"name": "x", "tags": names[start : start + 2]}).encode(), **headers)


class ModernRegistry(ThreadingHTTPServer):
    """``cuts``: bytes of an upload after which a connection ends, in turn; ``refuse_pieces``: ``second`` or ``all``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.content: dict[str, bytes] = {}
        self.manifest: dict[str, bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.calls: list[str] = []
        self.ranges: list[str] = []
        self.cuts: list[int] = []
        self.range_faults: list[bool] = []
        self.lost_answers = 0
        self.least = 0
        self.refuse_pieces = ""
        self.refusal = 400
        self.tells_digests = True
        self.endless = False
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests; nothing is printed."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
