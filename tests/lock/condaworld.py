"""Conda locks in tests: conda-forge's records from ``tests/data``, recipes as text, a way to lock."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from envbuild.lock import CondaChannels, CondaLock, Indexes, resolve_conda
from envbuild.progress import SilentProgress
from envbuild.recipe import Recipe, Ref, load_recipe, parse_ref
from envbuild.store import Http, Store

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "tests/data/conda-forge"
RECIPES = ROOT / "recipes"
DAY = "2026-11-20"
"""The day of the committed locks."""

NEEDS = (
    "einops", "hjson", "msgpack", "ninja", "numpy", "packaging>=20.0", "psutil", "py-cpuinfo", "pydantic>=2.0.0",
    "torch>=2.0.0", "tqdm",
)  # fmt: skip
"""``Requires-Dist`` of DeepSpeed 0.19.8's source."""

BASE = """\
description = "for tests"
makes = ["environment"]
[python]
version = "3.11"
[torch]
version = "2.7.1"
[cuda]
version = "12.6"
cudnn = "9.10.1.4"
nccl = "2.27.3.1"
"""


@dataclass(frozen=True, kw_only=True)
class CondaLocker:
    """Locks recipes; what a machine has is ``environ`` and ``channels``."""

    folder: Path
    environ: Mapping[str, str]
    store: Store

    def recipe(self, text: str, ref: str = "made:v1") -> Recipe:
        """The recipe with that text."""
        name, _, tag = ref.partition(":")
        path = self.folder / "recipes" / name / tag / "recipe.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return load_recipe(Ref(name=name, tag=tag), [self.folder / "recipes"])

    def lock(
        self, recipe: Recipe, *channels: str, previous: CondaLock | None = None, parent: CondaLock | None = None,
        upgrade: Sequence[str] = (), date: str = DAY,
    ) -> CondaLock:  # fmt: skip
        """The recipe's conda lock; without ``channels`` from conda-forge's records in the repository."""
        indexes = Indexes.from_machine(self.environ)
        return resolve_conda(
            recipe,
            channels=CondaChannels.from_machine(self.environ, channels or (f"conda-forge={RECORDS}",)),
            indexes=indexes, http=Http(environ=indexes.environ), previous=previous, parent=parent,
            upgrade=upgrade, date=date, store=self.store, progress=SilentProgress(),
        )  # fmt: skip


def committed(ref: str) -> Recipe:
    """A recipe of the repository."""
    return load_recipe(parse_ref(ref), [RECIPES])


def record(name: str, version: str, *depends: str, build: str = "0", **more: Any) -> dict[str, Any]:
    """A record of a channel that a test makes."""
    return {
        "name": name, "version": version, "build": build, "build_number": 0, "depends": list(depends),
        "subdir": "linux-64", "size": 1000, "sha256": (name[0].encode().hex() * 32)[:64], "timestamp": 1700000000000,
        **more,
    }  # fmt: skip


def channel(folder: Path, *records: dict[str, Any], base_url: str | None = None) -> Path:
    """A folder channel of these records, which has no files of packages."""
    for subdir in ("linux-64", "noarch"):
        info = {"subdir": subdir, **({"base_url": f"{base_url}{subdir}/"} if base_url else {})}
        mine = [item for item in records if subdir == "linux-64"]
        files = {f"{item['name']}-{item['version']}-{item['build']}.conda": item for item in mine}
        path = folder / subdir / "repodata.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"info": info, "packages": {}, "packages.conda": files}), "utf-8")
    return folder


@dataclass(kw_only=True)
class Site:
    """A web server with a channel. ``status`` is what every request meets instead of a file, ``body`` every file."""

    server: ThreadingHTTPServer
    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    body: bytes | None = None
    announced: int = 0
    requests: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def add(self, folder: Path, prefix: str) -> None:
        """Serve a folder channel of plain repodata below ``prefix``."""
        for subdir in ("linux-64", "noarch"):
            self.files[f"{prefix}/{subdir}/repodata.json"] = (folder / subdir / "repodata.json").read_bytes()


@contextmanager
def site(*, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A running :class:`Site`; it answers a proxy's requests, too."""
    cell: list[Site] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            here = cell[0]
            here.requests.append(self.path)
            path = "/" + self.path.split("/", 3)[3] if self.path.startswith("http") else self.path
            data = here.files.get(path)
            if data is None or here.status != 200:
                self.send_error(here.status if here.status != 200 else 404)
                return
            data = data if here.body is None else here.body
            self.send_response(200)
            self.send_header("Content-Length", str(here.announced or len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

    server = _Quiet(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    made = Site(server=server)
    cell.append(made)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up."""
