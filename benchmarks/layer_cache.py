"""A runner with nothing builds an image after another runner built it: its layers come from a registry.

    .venv/bin/python benchmarks/layer_cache.py pytorch-cuda:v2.8 [--store DIR]

The store must hold the recipe's artifacts (``envbuild image REF`` leaves them there). The first runner gets a store
with hard links to the artifacts, and a lock that was never built: it makes the base, compiles the operator, makes every
layer, and pushes them into a layer cache on loopback. The second gets an empty store, the same lock and no index or
mirror: what it does not find in the cache it cannot have. Both are whole processes; downloading artifacts is no part of
the first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from publish import registry

from envbuild.cli.context import Context
from envbuild.cli.settings import resolve
from envbuild.cli.terminal import Terminal
from envbuild.lock import Lock, lock_bytes
from envbuild.lock.licences import artifacts_of
from envbuild.recipe import Recipe
from envbuild.sandbox import Sandbox
from envbuild.store import Store

NOWHERE = "http://127.0.0.1:9"


def main() -> None:
    """Parse, run both, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ref")
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    context = Context(
        settings=resolve(os.environ, store=options.store), terminal=Terminal(json=False, quiet=True)
    )
    recipe = context.recipe(options.ref)
    lock, store = context.lock(recipe), context.store()
    with tempfile.TemporaryDirectory(dir=store.root, prefix="benchmark-") as name:
        folder = Path(name)
        first = Store.open(folder / "first")
        for artifact in artifacts_of(lock):
            if artifact.index != "built" and not first.has(artifact.sha256):
                os.link(store.artifact(artifact.sha256), first.artifact(artifact.sha256))
        with registry(folder / "registry") as (host, data):
            built = _image(recipe, lock, folder / "one", first.root, f"{host}/team/layers")
            first.close()
            _remove(first.root)
            fetched = _image(recipe, lock, folder / "two", folder / "second", f"{host}/team/layers")
            size = sum(path.stat().st_size for path in data.glob("docker/registry/v2/blobs/sha256/*/*/data"))
        _remove(folder / "second")
    made = [layer["name"] for layer in fetched["layers"] if layer["made"]]
    print(f"the first runner: {built['wall']:.1f} s, stages {built['seconds']}")
    print(
        f"the second runner: {fetched['wall']:.1f} s, fetched {fetched['bytes_fetched'] / 1e9:.2f} GB, made {made}"
    )
    print(f"the cache: {size / 1e9:.2f} GB; the same image: {built['digest'] == fetched['digest']}")
    print(f"building / fetching: {built['wall'] / fetched['wall']:.1f} times the seconds")


def _image(recipe: Recipe, lock: Lock, recipes: Path, store: Path, cache: str) -> dict[str, Any]:
    """``envbuild image`` of a lock that was never built, with nothing but the store and the cache."""
    place = recipes / recipe.ref.name / recipe.ref.tag
    shutil.copytree(recipe.path.parent, place)
    native = replace(lock.native, wheel=None) if lock.native else None
    (place / "lock.json").write_bytes(lock_bytes(replace(lock, native=native, image=None)))
    env = {
        **os.environ,
        "ENVBUILD_LAYER_CACHE": cache,
        "ENVBUILD_PYTHON_INDEX": f"{NOWHERE}/simple",
        "ENVBUILD_DEBIAN_MIRROR": f"{NOWHERE}/debian",
    }
    where = ["--recipes", str(recipes), "--store", str(store), "--no-load", "--json", "--quiet"]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "envbuild", "image", str(recipe.ref), *where],
        check=True, env=env, stdout=subprocess.PIPE,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    answer["wall"] = time.monotonic() - started
    print(f"  {answer['wall']:.1f} s {answer['seconds']}", file=sys.stderr)
    return answer


def _remove(store: Path) -> None:
    """Unpacked roots may belong to the sandbox's users; only it can remove them."""
    sandbox = Sandbox.detect()
    for root in (store / "roots").iterdir() if (store / "roots").is_dir() else []:
        sandbox.remove(root)
    shutil.rmtree(store)


if __name__ == "__main__":
    main()
