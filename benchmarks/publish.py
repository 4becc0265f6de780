"""Publish to a registry on loopback, whole and with one pin changed, against ``docker push``.

    .venv/bin/python benchmarks/publish.py pytorch-cuda:v2.7 [--runs 1] [--store DIR]

The store must hold the recipe's image (``envbuild image REF`` leaves it there); docker-registry and a Docker engine are
needed, and some 20 GB of disk. Every run has new registries, envbuild's and Docker's apart. Docker pushes the same
content twice over: envbuild's image with the same layers, loaded into the engine, and what ``docker buildx build``
makes of the same lock (benchmarks/assemble.py), which is what most people push. The changed pin is tqdm's. Bytes are
those that the registry got: the growth of its folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from assemble import PINS, change_pin, cold_store, docker_base, docker_build, load_image

from envbuild.cli.context import Context
from envbuild.cli.settings import resolve
from envbuild.cli.terminal import Terminal
from envbuild.image.locked import image_of
from envbuild.lock.model import Lock
from envbuild.recipe import Recipe
from envbuild.store import Store

DOCKER = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"


@dataclass
class Bench:
    """What a run needs, and what came out: label → (seconds, bytes) of each run."""

    recipe: Recipe
    lock: Lock
    store: Store
    folder: Path
    env: dict[str, str]
    results: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def publish(self, label: str, repository: str, data: Path, *where: str) -> None:
        """``envbuild publish --allow-unverified``, timed as a whole process."""
        command = [sys.executable, "-m", "envbuild", "publish", str(self.recipe.ref), repository]
        options = where or ("--recipes", str(self.recipe.path.parents[2]), "--store", str(self.store.root))
        before, started = held(data), time.monotonic()
        done = subprocess.run(
            [*command, "--allow-unverified", "--move-tag", "--json", "--quiet", *options],
            check=True, env=self.env, stdout=subprocess.PIPE,
        )  # fmt: skip
        seconds = time.monotonic() - started
        stages = json.loads(done.stdout)["seconds"]
        self.note(label, seconds, held(data) - before, f"of these {stages}")

    def push(self, label: str, name: str, data: Path) -> None:
        """``docker push``."""
        before, started = held(data), time.monotonic()
        subprocess.run([DOCKER, "push", "-q", name], check=True, stdout=subprocess.DEVNULL)
        self.note(label, time.monotonic() - started, held(data) - before, "")

    def note(self, label: str, seconds: float, size: int, more: str) -> None:
        """Keep a figure and show it."""
        self.results.setdefault(label, []).append((seconds, size))
        print(f"  {label}: {seconds:.1f} s, {size / 1e6:.1f} MB {more}", file=sys.stderr)


def main() -> None:
    """Parse, run, print a table of medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ref")
    parser.add_argument("--runs", type=int, default=1, choices=range(1, len(PINS)))
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    context = Context(
        settings=resolve(os.environ, store=options.store), terminal=Terminal(json=False, quiet=True)
    )
    recipe = context.recipe(options.ref)
    lock, store = context.lock(recipe), context.store()
    if image_of(lock) is None:
        sys.exit(f"build it first: envbuild image {options.ref} --no-load")
    with tempfile.TemporaryDirectory(dir=store.root, prefix="benchmark-") as name:
        folder = Path(name)
        env = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}
        bench = Bench(recipe=recipe, lock=lock, store=store, folder=folder, env=env)
        docker_base(lock, store, folder)
        for run in range(options.runs):
            _run(bench, run)
    subprocess.run([DOCKER, "rmi", "-f", "envbuild-benchmark", "envbuild-benchmark-base"], check=False)
    print("the engine still has a build cache: docker builder prune", file=sys.stderr)
    _print(bench.results)


def _run(bench: Bench, run: int) -> None:
    """All of it once."""
    with registry(bench.folder / f"registry-{run}") as (host, data):
        bench.publish("envbuild publish", f"{host}/team/image", data)
        where = change_pin(bench.recipe, bench.store, bench.folder / f"pins-{run}", PINS[run])
        bench.publish("envbuild publish, one pin changed", f"{host}/team/image", data, *where)
        cold = cold_store(bench.lock, bench.store, bench.folder / f"cold-{run}")
        place = ("--recipes", str(bench.recipe.path.parents[2]), "--store", str(cold.root))
    with registry(bench.folder / f"registry-cold-{run}") as (host, data):
        bench.publish(
            "envbuild, lock to registry, only the base made before", f"{host}/team/image", data, *place
        )
        shutil.rmtree(cold.root)
    with registry(bench.folder / f"registry-docker-{run}") as (host, data):
        load_image(bench.recipe, bench.store)
        name = f"{host}/team/image:one"
        subprocess.run([DOCKER, "tag", bench.recipe.ref.candidate, name], check=True)
        bench.push("docker push, the same layers", name, data)
        command = [sys.executable, "-m", "envbuild", "image", str(bench.recipe.ref), *where]
        subprocess.run(command, check=True, env=bench.env, stdout=subprocess.DEVNULL)
        changed = f"{host}/team/image:two"
        subprocess.run([DOCKER, "tag", bench.recipe.ref.candidate, changed], check=True)
        bench.push("docker push, the same layers, one pin changed", changed, data)
        subprocess.run([DOCKER, "rmi", "-f", name, changed, bench.recipe.ref.candidate], check=True)
    with registry(bench.folder / f"registry-built-{run}") as (host, data):
        for number, label in ((0, ""), (1, ", one pin changed")):
            built = docker_build(bench.lock, bench.store, bench.folder, 2 * run + number)
            name = f"{host}/team/image:{number}"
            subprocess.run([DOCKER, "tag", "envbuild-benchmark", name], check=True)
            bench.push(f"docker push of docker build's image{label}", name, data)
            pushed, size = bench.results[f"docker push of docker build's image{label}"][-1]
            bench.note(f"docker build and push, lock to registry{label}", built + pushed, size, "")
            subprocess.run([DOCKER, "rmi", name], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def registry(folder: Path) -> Iterator[tuple[str, Path]]:
    """Debian's docker-registry, empty, on 127.0.0.1; its host and its folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    data.mkdir(parents=True)
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(data)}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "log": {"level": "error", "accesslog": {"disabled": True}},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(folder / "config.yml")], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}", data
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def held(data: Path) -> int:
    """Bytes of all blobs of a registry."""
    return sum(path.stat().st_size for path in data.glob("docker/registry/v2/blobs/sha256/*/*/data"))


def _print(results: dict[str, list[tuple[float, int]]]) -> None:
    medians = {
        label: (statistics.median(s for s, _ in runs), int(statistics.median(b for _, b in runs)))
        for label, runs in results.items()
    }
    print(f"{'':<58}{'seconds':>9}{'MB':>9}")
    for label, (seconds, size) in medians.items():
        print(f"{label:<58}{seconds:>9.1f}{size / 1e6:>9.1f}")
    pairs = (
        ("envbuild publish", "docker push, the same layers"),
        ("envbuild publish", "docker push of docker build's image"),
        ("envbuild publish, one pin changed", "docker push, the same layers, one pin changed"),
        ("envbuild publish, one pin changed", "docker push of docker build's image, one pin changed"),
        ("envbuild publish, one pin changed", "docker build and push, lock to registry, one pin changed"),
        ("envbuild, lock to registry, only the base made before", "docker build and push, lock to registry"),
    )
    for own, peer in pairs:
        times = medians[peer][0] / medians[own][0]
        amount = medians[peer][1] / max(1, medians[own][1])
        print(f"{peer} / {own}: {times:.1f} times the seconds, {amount:.1f} times the bytes")


if __name__ == "__main__":
    main()
