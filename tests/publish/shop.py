"""The command line on the small image, a registry, and a look at that registry without envbuild."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clirun import NOWHERE, Cli, Done
from smallimage import REF, SmallWorld
from verdictmaker import own_key, signed, verdict_about

from envbuild.gate import SigningKey
from envbuild.lock import Lock, lock_bytes, read_lock
from envbuild.oci.image import Image

_ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
GATE = SigningKey(seed=bytes(range(32)), where="the gate's")
"""The key of a machine with GPUs."""


@dataclass(frozen=True)
class Shop:
    """The command line on the small image, a repository of its own, and a look at the registry without envbuild."""

    cli: Cli
    host: str
    path: str
    image: Image
    lock: Lock
    recipes: Path

    @property
    def repo(self) -> str:
        return f"{self.host}/{self.path}"

    @property
    def store(self) -> Path:
        return Path(self.cli.env["ENVBUILD_STORE"])

    @property
    def pinned(self) -> str:
        return f"{self.repo}@{self.image.digest}"

    def publish(self, *options: str, **env: str) -> Done:
        return self.cli("publish", REF, self.repo, "--json", *options, env=env)

    def with_env(self, **env: str) -> Shop:
        return replace(self, cli=replace(self.cli, env={**self.cli.env, **env}))

    def elsewhere(self, store: Path, home: Path) -> Shop:
        """Another machine: a store, a home and so a key of its own, and no recipes."""
        home.mkdir(exist_ok=True)
        (home / "none").mkdir(exist_ok=True)
        return self.with_env(ENVBUILD_STORE=str(store), HOME=str(home), ENVBUILD_RECIPES=str(home / "none"))

    def verdict(self, key: SigningKey | None = None, **changes: Any) -> Path:
        """The file of a passing verdict about the image, with changes, by this machine's key or another."""
        about = verdict_about(self.image, self.lock, REF, self.recipes, **changes)
        path = self.cli.folder / f"verdict-{time.monotonic_ns()}.json"
        path.write_bytes(signed(about, key or own_key(Path(self.cli.env["HOME"]))))
        return path

    def pem(self, key: SigningKey) -> str:
        path = self.cli.folder / f"{key.public.id[:8]}.pem"
        path.write_text(key.public.pem)
        return str(path)

    def ask(self, path: str, *, repo: str | None = None) -> Any:
        """The registry's answer as JSON, or its status where it refuses."""
        request = urllib.request.Request(
            f"http://{self.host}/v2/{repo or self.path}/{path}", headers={"Accept": _ACCEPT}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code

    def size(self, path: str) -> int | None:
        """The length of what lies at a path, or ``None``."""
        request = urllib.request.Request(f"http://{self.host}/v2/{self.path}/{path}", method="HEAD")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request) as answer:
                return int(answer.headers["Content-Length"])
        except urllib.error.HTTPError:
            return None

    def tags(self) -> list[str]:
        """Tags that people gave: without the fallback's for referrers."""
        answer = self.ask("tags/list")
        names = answer["tags"] if isinstance(answer, dict) else None
        return sorted(name for name in names or [] if not name.startswith("sha256-"))

    def referrers(self, digest: str | None = None) -> list[dict[str, Any]]:
        answer = self.ask(f"manifests/{(digest or self.image.digest).replace(':', '-')}")
        return list(answer["manifests"]) if isinstance(answer, dict) else []


def open_shop(folder: Path, small: SmallWorld, host: str, path: str) -> Shop:
    """A machine that reaches nothing but the registry; its lock names the small image's digests."""
    home, recipes = folder / "home", folder / "recipes"
    home.mkdir()
    shutil.copytree(small.recipes, recipes)
    lock = replace(small.lock, image=small.built.lock)
    place = recipes / REF.replace(":", "/") / "lock.json"
    place.write_bytes(lock_bytes(lock))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ENVBUILD_STORE": str(small.store.root),
        "ENVBUILD_RECIPES": str(recipes),
        "ENVBUILD_PYTHON_INDEX": f"{NOWHERE}/simple",
        "ENVBUILD_DEBIAN_MIRROR": f"{NOWHERE}/debian",
        "UV_HTTP_RETRIES": "0",
    }
    return Shop(
        cli=Cli(folder=folder, env=env),
        host=host,
        path=path,
        image=small.built.image,
        lock=read_lock(place),
        recipes=recipes,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*argv: str, **options: Any) -> str:
    return subprocess.run(list(argv), check=True, stdout=subprocess.PIPE, text=True, **options).stdout
