"""Assemble an image cold, unchanged, and with one pin changed, against ``docker buildx build`` of the same lock.

    .venv/bin/python benchmarks/assemble.py pytorch-cuda:v2.7 [--runs 3] [--no-docker] [--store DIR]

The store must hold the recipe's artifacts, base and operator (``envbuild image REF`` leaves them there). Each cold
run gets a store of its own with hard links to the artifacts, the base layer and its root, and no wheel or byte-code
layer; once with the committed lock, which names the layers' digests, and once with a lock that was never built, where
every byte is inflated and verified as well. The changed pin is tqdm's: the time to fetch its wheel (80 kB) is taken
off. The peer gets a FROM with the same base, all wheels in a bind mount, uv with a cache mount, and byte code on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from envbuild.cli.context import Context
from envbuild.cli.settings import resolve
from envbuild.cli.terminal import Terminal
from envbuild.image.locked import image_of
from envbuild.image.plan import plan_image
from envbuild.lock import lock_bytes
from envbuild.lock.model import Artifact, Lock
from envbuild.recipe import Recipe
from envbuild.store import Store

PINS = ("4.67.1", "4.67.0", "4.66.6", "4.66.5", "4.66.4")
"""Versions of tqdm, one for each run: a pin that was changed before is not changed."""

DOCKERFILE = """\
FROM envbuild-benchmark-base
COPY requirements.txt /tmp/requirements.txt
RUN --network=none --mount=type=bind,from=wheels,target=/wheels --mount=type=bind,from=tools,target=/tools \\
    --mount=type=cache,target=/root/.cache/uv \\
    UV_LINK_MODE=copy /tools/uv pip install --python /opt/venv/bin/python --offline --no-index \\
    --find-links /wheels --no-deps --compile-bytecode -r /tmp/requirements.txt
"""


def main() -> None:
    """Parse, run, print a table of medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ref")
    parser.add_argument("--runs", type=int, default=3, choices=range(1, len(PINS) + 1))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--no-docker", action="store_true")
    options = parser.parse_args()
    context = Context(
        settings=resolve(os.environ, store=options.store), terminal=Terminal(json=False, quiet=True)
    )
    recipe = context.recipe(options.ref)
    lock = context.lock(recipe)
    store = context.store()
    if image_of(lock) is None:
        sys.exit(f"build it first: envbuild image {options.ref} --no-load")
    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=store.root, prefix="benchmark-") as name:
        folder = Path(name)
        if not options.no_docker:
            docker_base(lock, store, folder)
        for run in range(options.runs):
            cold = cold_store(lock, store, folder / f"cold-{run}")
            results.setdefault("envbuild, cold layers", []).append(_envbuild(recipe, cold))
            results.setdefault("envbuild, nothing changed", []).append(_envbuild(recipe, cold))
            fresh = cold_store(lock, store, folder / f"fresh-{run}")
            unbuilt = _unbuilt(recipe, lock, folder / f"unbuilt-{run}")
            results.setdefault("envbuild, cold layers, lock never built", []).append(
                _envbuild(recipe, fresh, recipes=unbuilt)
            )
            shutil.rmtree(fresh.root)
            seconds = _pin_changed(recipe, lock, cold, folder / f"recipes-{run}", PINS[run], load=False)
            results.setdefault("envbuild, one pin changed", []).append(seconds)
            if not options.no_docker:
                again = folder / f"recipes-docker-{run}"
                load_image(recipe, store)
                seconds = _pin_changed(recipe, lock, store, again, PINS[run], load=True)
                results.setdefault("envbuild, one pin changed, until docker run", []).append(seconds)
                seconds = docker_build(lock, store, folder, run)
                results.setdefault("docker buildx build, until docker run", []).append(seconds)
            results.setdefault("limit: read, inflate, hash both sides", []).append(_limit(lock, store))
            shutil.rmtree(cold.root)
    if not options.no_docker:
        subprocess.run(["docker", "rmi", "-f", "envbuild-benchmark", "envbuild-benchmark-base"], check=False)
        print("the engine still has a build cache: docker builder prune", file=sys.stderr)
    _print(results)


def _wheels(lock: Lock) -> list[Artifact]:
    operator = [lock.native.wheel] if lock.native and lock.native.wheel else []
    return [*lock.python, *operator]


def cold_store(lock: Lock, store: Store, folder: Path) -> Store:
    """A store with the artifacts, the base and its root, and nothing else."""
    cold = Store.open(folder)
    for artifact in [*lock.debian, *_wheels(lock)]:
        target = cold.artifact(artifact.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(store.artifact(artifact.sha256), target)
    for kind in ("base", "native"):
        source = store.root / "cache" / kind
        if source.is_dir():
            shutil.copytree(source, cold.root / "cache" / kind, dirs_exist_ok=True)
    plan = plan_image(lock, operator=lock.native.wheel if lock.native else None)
    record = store.record("layer", plan.layers[0].key)
    assert record is not None
    cold.put_record("layer", plan.layers[0].key, record)
    base = str(record["digest"])
    os.link(store.layout.path(base), cold.layout.path(base))
    root = str(record["diff_id"]).removeprefix("sha256:")
    cold.roots.mkdir(exist_ok=True)
    (cold.roots / root).symlink_to(store.roots / root)
    return cold


def _unbuilt(recipe: Recipe, lock: Lock, folder: Path) -> Path:
    """A folder of recipes with a copy whose lock names no image."""
    place = folder / recipe.ref.name / recipe.ref.tag
    shutil.copytree(recipe.path.parent, place)
    (place / "lock.json").write_bytes(lock_bytes(replace(lock, image=None)))
    return folder


def _envbuild(recipe: Recipe, store: Store, *, recipes: Path | None = None) -> float:
    where = ["--recipes", str(recipes or recipe.path.parents[2]), "--store", str(store.root)]
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "envbuild", "image", str(recipe.ref), "--no-load", "--quiet", *where],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - started


def load_image(recipe: Recipe, store: Store) -> None:
    """Let the engine have the image before the change."""
    command = [
        sys.executable,
        "-m",
        "envbuild",
        "image",
        str(recipe.ref),
        "--quiet",
        "--store",
        str(store.root),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def change_pin(recipe: Recipe, store: Store, folder: Path, version: str) -> list[str]:
    """A copy of the recipe in ``folder`` with another tqdm, locked; the options that lead there."""
    place = folder / recipe.ref.name / recipe.ref.tag
    shutil.copytree(recipe.path.parent, place)
    text = (place / "recipe.toml").read_text()
    (place / "recipe.toml").write_text(text.replace("packages = [", f'packages = ["tqdm=={version}", ', 1))
    where = ["--recipes", str(folder), "--store", str(store.root), "--quiet", "--json"]
    command = [sys.executable, "-m", "envbuild", "lock", str(recipe.ref), "--only", "image", *where]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return where


def _pin_changed(
    recipe: Recipe, lock: Lock, store: Store, folder: Path, version: str, *, load: bool
) -> float:
    """A copy of the recipe with another tqdm, locked, built on a store that has the image before the change."""
    where = change_pin(recipe, store, folder, version)
    envbuild = [sys.executable, "-m", "envbuild"]
    started = time.monotonic()
    loading = [] if load else ["--no-load"]
    done = subprocess.run(
        [*envbuild, "image", str(recipe.ref), *loading, *where], check=True, stdout=subprocess.PIPE
    )
    if load:
        _docker_run(f"{recipe.ref.candidate}", "import tqdm")
    answer = json.loads(done.stdout)
    print(f"  one pin changed: made {[x['name'] for x in answer['layers'] if x['made']]}", file=sys.stderr)
    return time.monotonic() - started - answer["seconds"].get("fetch", 0.0)


def docker_base(lock: Lock, store: Store, folder: Path) -> None:
    """Docker's FROM: the same base and virtual environment, imported as one layer."""
    image = image_of(lock)
    assert image is not None
    base, files = image.layers[0], image.layers[1]
    for layer in (base, files):
        with (folder / f"{layer.name}.tar").open("wb") as out:
            subprocess.run(["gzip", "-dc", str(store.layout.path(layer.digest))], stdout=out, check=True)
    dockerfile = "FROM scratch\nADD base.tar /\nADD files.tar /\n"
    (folder / "base.Dockerfile").write_text(dockerfile)
    buildx(["-t", "envbuild-benchmark-base", "-f", str(folder / "base.Dockerfile"), str(folder)])


def docker_build(lock: Lock, store: Store, folder: Path, run: int) -> float:
    context, wheels, tools = folder / f"context-{run}", folder / "wheels", folder / "tools"
    for place in (context, wheels, tools):
        place.mkdir(exist_ok=True)
    for wheel in _wheels(lock):
        target = wheels / wheel.basename
        if not target.exists():
            os.link(store.artifact(wheel.sha256), target)
    from uv import find_uv_bin

    shutil.copy2(find_uv_bin(), tools / "uv")
    pins = "".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in _wheels(lock))
    (context / "requirements.txt").write_text(pins + f"# run {run} at {time.time()}\n")
    (context / "Dockerfile").write_text(DOCKERFILE)
    started = time.monotonic()
    buildx(
        ["--build-context", f"wheels={wheels}", "--build-context", f"tools={tools}"]
        + ["-t", "envbuild-benchmark", str(context)]
    )
    _docker_run("envbuild-benchmark", "import tqdm")
    return time.monotonic() - started


def _docker_run(image: str, code: str) -> None:
    """Until a container of the image has run a line of Python."""
    subprocess.run(["docker", "run", "--rm", image, "/opt/venv/bin/python", "-c", code], check=True)


def buildx(arguments: list[str]) -> None:
    program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    subprocess.run([program, "buildx", "build", "--load", "--progress=quiet", *arguments], check=True)


def _limit(lock: Lock, store: Store) -> float:
    """Read every wheel once, hash it, inflate it and hash what comes out: on two threads, as envbuild does."""
    import hashlib
    import zipfile
    from concurrent.futures import ThreadPoolExecutor

    from isal import isal_zlib

    def one(path: Path) -> int:
        raw, plain = hashlib.sha256(), hashlib.sha256()
        with path.open("rb") as stream, zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                stream.seek(info.header_offset + 26)
                sizes = stream.read(4)
                stream.seek(int.from_bytes(sizes[:2], "little") + int.from_bytes(sizes[2:], "little"), 1)
                left = info.compress_size
                inflate = isal_zlib.decompressobj(-15) if info.compress_type else None
                while left:
                    chunk = stream.read(min(left, 1 << 20))
                    left -= len(chunk)
                    raw.update(chunk)
                    plain.update(inflate.decompress(chunk) if inflate else chunk)
        return len(raw.digest() + plain.digest())

    paths = sorted((store.artifact(w.sha256) for w in _wheels(lock)), key=lambda p: -p.stat().st_size)
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        list(pool.map(one, paths))
    return time.monotonic() - started


def _print(results: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in results.items()}
    cold = medians["envbuild, cold layers"]
    for name, values in results.items():
        print(
            f"{name:40} median {medians[name]:7.2f} s   min {min(values):7.2f}   max {max(values):7.2f}   "
            f"{medians[name] / cold:6.2f} x envbuild cold"
        )
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
