"""A small world to lock in: a Python index and a signed Debian archive on 127.0.0.1, with files made here."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import lzma
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

UPLOADED = "2026-01-02T03:04:05Z"


def make_wheel(name: str, version: str, tag: str, requires: Iterable[str]) -> tuple[str, bytes]:
    """A wheel's file name and bytes: the same each time."""
    base = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {item}\n" for item in requires)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in (
            (f"{name.replace('-', '_')}.py", f"version = '{version}' # {tag}\n"),
            (f"{base}.dist-info/METADATA", metadata),
            (f"{base}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"),
            (f"{base}.dist-info/RECORD", ""),
        ):
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return f"{base}-{tag}.whl", content.getvalue()


def make_sdist(name: str, version: str, requires: Iterable[str]) -> tuple[str, bytes]:
    """An sdist whose ``setup.py`` must not be run: it fails."""
    info = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nDynamic: requires-dist\n"
    info += (
        "".join(f"Requires-Dist: {item}\n" for item in requires)
        + '\nRequires-Dist: nothing; extra == "dev"\n'
    )
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for path, text in (("PKG-INFO", info), ("setup.py", "raise SystemExit('setup.py was run')\n")):
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return f"{name}-{version}.tar.gz", gzip.compress(plain.getvalue(), mtime=0)


@dataclass
class Served:
    """One file on the index."""

    project: str
    name: str
    data: bytes
    uploaded: str | None = UPLOADED
    yanked: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class PythonIndex:
    """A simple index. The flags are what a test turns."""

    files: list[Served] = field(default_factory=list)
    html: bool = False
    sizes: bool = False
    metadata: bool = True
    wrong_metadata: bool = False
    head: bool = True
    ranges: bool = True
    credentials: str | None = None
    failing: int | None = None
    requests: list[str] = field(default_factory=list)

    def wheel(
        self, name: str, version: str, requires: Iterable[str] = (), *, tag: str = "py3-none-any",
        uploaded: str | None = UPLOADED,
    ) -> None:  # fmt: skip
        file, data = make_wheel(name, version, tag, requires)
        self.files.append(Served(project=name, name=file, data=data, uploaded=uploaded))

    def sdist(self, name: str, version: str, requires: Iterable[str] = ()) -> None:
        file, data = make_sdist(name, version, requires)
        self.files.append(Served(project=name, name=file, data=data))

    def drop(self, file: str) -> None:
        self.files = [item for item in self.files if item.name != file]

    def page(self, project: str) -> tuple[str, bytes] | None:
        mine = [item for item in self.files if item.project == project]
        if not mine:
            return None
        return (
            ("text/html", self._html(mine))
            if self.html
            else ("application/vnd.pypi.simple.v1+json", self._json(mine))
        )

    def _html(self, files: list[Served]) -> bytes:
        rows = []
        for item in files:
            yanked = ' data-yanked=""' if item.yanked else ""
            core = (
                f' data-core-metadata="sha256={self._metadata_hash(item)}"'
                if self._has_metadata(item)
                else ""
            )
            name = html.escape(item.name)
            rows.append(f'<a href="../../files/{name}#sha256={item.sha256}"{yanked}{core}>{name}</a><br/>')
        return ("<!DOCTYPE html><html><body>" + "\n".join(rows) + "</body></html>").encode()

    def _json(self, files: list[Served]) -> bytes:
        entries = []
        for item in files:
            entry = {
                "filename": item.name,
                "url": f"../../files/{item.name}",
                "hashes": {"sha256": item.sha256},
            }
            if self.sizes:
                entry["size"] = len(item.data)
            if item.uploaded:
                entry["upload-time"] = item.uploaded
            if item.yanked:
                entry["yanked"] = True
            if self._has_metadata(item):
                entry["core-metadata"] = {"sha256": self._metadata_hash(item)}
            entries.append(entry)
        return json.dumps(
            {"meta": {"api-version": "1.1"}, "name": files[0].project, "files": entries}
        ).encode()

    def _has_metadata(self, item: Served) -> bool:
        return self.metadata and item.name.endswith(".whl")

    def _metadata_hash(self, item: Served) -> str:
        wrong = self.wrong_metadata and item.project == "torch"
        return hashlib.sha256(self.beside(item) + (b"changed" if wrong else b"")).hexdigest()

    def beside(self, item: Served) -> bytes:
        with zipfile.ZipFile(io.BytesIO(item.data)) as archive:
            return archive.read(
                next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            )


def release_text(suite: str, indexes: dict[str, bytes], *, extra: str = "") -> str:
    lines = "".join(
        f" {hashlib.sha256(data).hexdigest()} {len(data)} {path}\n" for path, data in indexes.items()
    )
    return f"Origin: Debian\nSuite: {suite}\nCodename: {suite}\n{extra}SHA256:\n{lines}"


@dataclass
class Keys:
    """A signing key and the keyring that verifies it."""

    home: Path
    keyring: Path

    @classmethod
    def make(cls, folder: Path, name: str) -> Keys:
        home = folder / name
        home.mkdir(mode=0o700)
        base = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
        subprocess.run(
            [*base, "--quick-generate-key", f"{name} <{name}@example.org>", "ed25519", "sign", "never"],
            check=True,
        )
        keyring = folder / f"{name}.gpg"
        subprocess.run([*base, "--output", str(keyring), "--export"], check=True)
        return cls(home=home, keyring=keyring)

    def sign(self, text: str) -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--clearsign", "--output", "-"]
        return subprocess.run(command, input=text.encode(), check=True, capture_output=True).stdout

    def armored(self) -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--armor", "--export"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def stop(self) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False, capture_output=True
        )


@dataclass
class DebianArchive:
    """A Debian archive of several suites; each test may change what is served under a path."""

    keys: Keys
    paragraphs: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    extra: str = ""
    served: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def add(
        self, name: str, version: str = "1.0", *, suite: str = "bookworm", component: str = "main",
        arch: str = "amd64", **fields: str,
    ) -> None:  # fmt: skip
        data = f"{name} {version}".encode()
        file = f"pool/{component}/{name[0]}/{name}/{name}_{version}_{arch}.deb"
        lines = {
            "Package": name, "Version": version, "Architecture": arch, "Filename": file, "Size": str(len(data)),
            "SHA256": hashlib.sha256(data).hexdigest(), "Description": f"{name}\n for tests",
            **{key.replace("_", "-").title(): value for key, value in fields.items()},
        }  # fmt: skip
        text = "".join(f"{key}: {value}\n" for key, value in lines.items())
        self.paragraphs.setdefault((suite, component), []).append(text)
        self.served[f"/debian/{file}"] = data

    def publish(self, *, compression: str = "xz") -> None:
        """Write and sign the indexes."""
        pack = {"xz": lzma.compress, "gz": lambda data: gzip.compress(data, mtime=0), "": bytes}[compression]
        ending = f".{compression}" if compression else ""
        for suite in {key[0] for key in self.paragraphs}:
            indexes = {}
            for (where, component), texts in self.paragraphs.items():
                if where == suite:
                    path = f"{component}/binary-amd64/Packages{ending}"
                    indexes[path] = pack("\n".join(texts).encode())
                    self.served[f"/debian/dists/{suite}/{path}"] = indexes[path]
            signed = self.keys.sign(release_text(suite, indexes, extra=self.extra))
            self.served[f"/debian/dists/{suite}/InRelease"] = signed


@dataclass
class World:
    """The server and what it serves."""

    index: PythonIndex
    debian: DebianArchive
    mirror: dict[str, bytes]
    server: ThreadingHTTPServer

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def simple(self) -> str:
        return f"{self.address}/simple"


class Server(ThreadingHTTPServer):
    """A server that does not mind when a client goes away."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: the client had enough."""


def serve(world: World) -> None:
    """Answer requests on threads until the server is shut down."""
    threading.Thread(target=world.server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()


def handler(world_of: list[World]) -> type[BaseHTTPRequestHandler]:
    """A request handler that looks at the world in the list, which is filled in after the server exists."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            world = world_of[0]
            path = unquote(self.path)
            if path.startswith("/debian"):
                world.debian.requests.append(f"{self.command} {path}")
                return self._send(world.debian.served.get(path), "application/octet-stream", body=body)
            if path.startswith("/mirror/"):
                return self._send(
                    world.mirror.get(path.removeprefix("/mirror/")), "application/octet-stream", body=body
                )
            index = world.index
            index.requests.append(f"{self.command} {path}")
            if index.failing:
                return self._send(b"broken", "text/plain", body=body, status=index.failing)
            if index.credentials:
                wanted = "Basic " + base64.b64encode(index.credentials.encode()).decode()
                if self.headers.get("Authorization") != wanted:
                    return self._send(b"who?", "text/plain", body=body, status=401)
            if path.startswith("/simple/"):
                page = index.page(path.removeprefix("/simple/").strip("/"))
                return self._send(page[1] if page else None, page[0] if page else "", body=body)
            if not body and not index.head:
                return self._send(b"", "text/plain", body=body, status=405)
            return self._file(index, path.removeprefix("/files/"), body=body)

        def _file(self, index: PythonIndex, name: str, *, body: bool) -> None:
            served = next((item for item in index.files if item.name == name.removesuffix(".metadata")), None)
            if served is None or (name.endswith(".metadata") and not index.metadata):
                return self._send(None, "", body=body)
            data = served.data
            if name.endswith(".metadata"):
                data = index.beside(served)
            wanted = self.headers.get("Range")
            if wanted and index.ranges:
                first, last = wanted.removeprefix("bytes=").split("-")
                start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
                return self._send(
                    data[start:end], "application/zip", body=body, status=206,
                    content_range=f"bytes {start}-{end - 1}/{len(data)}",
                )  # fmt: skip
            return self._send(data, "application/zip", body=body)

        def _send(
            self,
            data: bytes | None,
            kind: str,
            *,
            body: bool,
            status: int = 200,
            content_range: str | None = None,
        ) -> None:
            if data is None:
                status, data = 404, b"no"
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            if content_range:
                self.send_header("Content-Range", content_range)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    return Handler
