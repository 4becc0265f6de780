"""Local images that stand in for NVIDIA's bases and micromamba's, which the tests cannot pull; and what Docker did."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import micromamba_standin

from envbuild.engine.docker import Docker
from envbuild.engine.model import ImageRef
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress

DOCKER = "/usr/bin/docker"
CUDA_PATH = "/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def docker(*arguments: str, check: bool = True, stdin: bytes | None = None) -> str:
    done = subprocess.run([DOCKER, *arguments], check=False, capture_output=True, input=stdin)
    assert not check or done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout.decode()


def docker_fails(*arguments: str) -> None:
    assert subprocess.run([DOCKER, *arguments], check=False, capture_output=True).returncode != 0, arguments


@dataclass(frozen=True)
class Bases:
    """Names of local images."""

    build: str
    ship: str
    micromamba: str

    def values(self) -> dict[str, str]:
        """By build argument."""
        return {"BUILD_BASE": self.build, "BASE": self.ship, "MICROMAMBA": self.micromamba}

    def options(self, **other: str) -> list[str]:
        """For ``envbuild image --builder docker``; ``other`` replaces some."""
        values = {**self.values(), **other}
        return [word for name, value in values.items() for word in ("--build-arg", f"{name}={value}")]


def load_layers(
    engine: Docker, layout: Layout, name: str, layers: Sequence[Layer], *, path: str = CUDA_PATH
) -> str:
    """An image of these layers of envbuild's own, in Docker under ``name``."""
    image = Image(
        layers=tuple(layers),
        run=RunConfig(
            env={"PATH": path}, entrypoint=(), cmd=("bash",), working_dir="/", user="root", labels={}
        ),
        created="2020-01-01T00:00:00Z",
    )
    layout.put(image.config_bytes)
    engine.load(ImageRef.read(layout, layout.put(image.manifest_bytes), (name,)), SilentProgress())
    return name


def build_micromamba(folder: Path, name: str) -> str:
    """An image that holds nothing but /bin/micromamba."""
    (folder / "bin").mkdir(parents=True)
    micromamba_standin.pack(folder / "bin/micromamba")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY bin /bin\n")
    docker("buildx", "build", "--quiet", "--tag", name, str(folder))
    return name


def empty_deb(folder: Path, name: str) -> Path:
    """A package that is there and holds nothing."""
    place = folder / name / "DEBIAN"
    place.mkdir(parents=True)
    (place / "control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: tests <tests@localhost>\nDescription: stands in\n"
    )
    target = folder / f"{name}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", place.parent, target], check=True, capture_output=True
    )
    return target


def add_debs(base: str, name: str, debs: Sequence[Path], folder: Path, *, epoch: int = 1577836800) -> str:
    """``base`` with these packages installed."""
    folder.mkdir(parents=True)
    for deb in debs:
        (folder / deb.name).write_bytes(deb.read_bytes())
    (folder / "Dockerfile").write_text(
        f"FROM {base}\nRUN --network=none --mount=type=bind,target=/debs dpkg --install /debs/*.deb\n"
    )
    docker(
        "buildx", "build", "--quiet", "--build-arg", f"SOURCE_DATE_EPOCH={epoch}", "--tag", name, str(folder)
    )
    return name


@contextmanager
def own_images(*prefixes: str) -> Iterator[None]:
    """Removes every image whose name starts with one of ``prefixes`` afterwards."""
    try:
        yield
    finally:
        names = docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        mine = [name for name in names if name.startswith(prefixes)]
        if mine:
            docker("rmi", "--force", *mine, check=False)


@contextmanager
def large_cache_removed(least: int = 50_000_000) -> Iterator[None]:
    """Removes what BuildKit's cache got since and is at least that large, in bytes, with what was built on it.

    Small records stay: others may build meanwhile, and the engine collects them by itself.
    """
    before = set(cache_records())
    try:
        yield
    finally:
        records = cache_records()
        doomed = {id for id, record in records.items() if id not in before and record.size >= least}
        while more := {id for id, record in records.items() if record.parents & doomed} - doomed:
            doomed |= more
        while doomed:  # one that another is built on cannot go before that
            leaves = {id for id in doomed if not any(id in records[other].parents for other in doomed)}
            for id in leaves:
                docker("builder", "prune", "--all", "--force", "--filter", f"id={id}", check=False)
            doomed -= leaves


@dataclass(frozen=True)
class CacheRecord:
    """One record of BuildKit's cache: its bytes, and the records that it is built on."""

    size: int
    parents: frozenset[str]


def cache_records() -> dict[str, CacheRecord]:
    """What BuildKit's cache holds, by id."""
    found = {}
    for block in docker("buildx", "du", "--verbose").split("\n\n"):
        fields = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
        if "ID" in fields:
            parents = fields.get("Parents", fields.get("Parent", "")).replace(",", " ").split()
            size = _bytes(fields.get("Size", "0B").strip())
            found[fields["ID"].strip()] = CacheRecord(size=size, parents=frozenset(parents))
    return found


def _bytes(text: str) -> int:
    number = text.rstrip("kMGTB")
    return int(float(number) * {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}[text[len(number) :]])


def saved_layers(name: str) -> Iterator[tuple[str, tarfile.TarFile]]:
    """The layers of an image in Docker, bottom first, each with its name in the archive."""
    saved = subprocess.run([DOCKER, "save", name], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as outer:
        for layer in json.loads(_content(outer, "manifest.json"))[0]["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(_content(outer, layer))) as inner:
                yield layer, inner


def saved_files(name: str) -> Iterator[tuple[str, bytes]]:
    """Every file of every layer (``layer:path``), and the image's config: name, content."""
    saved = subprocess.run([DOCKER, "save", name], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as outer:
        manifest = _content(outer, "manifest.json")
        yield "manifest.json", manifest
        yield "config", _content(outer, json.loads(manifest)[0]["Config"])
    for layer, inner in saved_layers(name):
        for member in inner:
            yield f"{layer}:{member.name}", _content(inner, member) if member.isreg() else b""


def saved_members(name: str) -> list[dict[str, tuple[object, ...]]]:
    """What each layer holds, bottom first: by path kind, mode, owner, content, and of files the time.

    Times of folders and of whiteouts are left out: an engine that does not rewrite them has those of the build.
    """
    found = []
    for _, inner in saved_layers(name):
        layer: dict[str, tuple[object, ...]] = {}
        for member in inner:
            whiteout = member.name.rsplit("/", 1)[-1].startswith(".wh.")
            time = member.mtime if not (member.isdir() or whiteout) else None
            content = hashlib.sha256(_content(inner, member)).hexdigest() if member.isreg() else ""
            layer[member.name] = (
                member.type, member.mode, member.uid, member.gid, member.linkname, content, time,
            )  # fmt: skip
        found.append(layer)
    return found


def _content(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read()


def inspected(name: str) -> Any:
    """``docker inspect``."""
    return json.loads(docker("inspect", name))[0]
