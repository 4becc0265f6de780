"""An image whose layers have what real ones have, and a far folder that has some of it."""

from __future__ import annotations

import functools
import gzip
import io
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zstandard

from envbuild.bundle import Far, Order, Packed, Request, deliver, pack, read_far
from envbuild.bundle.delivery import Delivered
from envbuild.engine import ImageRef
from envbuild.oci.descriptor import LAYER_GZIP, LAYER_ZSTD
from envbuild.oci.digest import of_bytes
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.progress import SilentProgress
from envbuild.sandbox import Sandbox
from envbuild.store import Store

NAME = "made:v1-candidate"
SITE = "opt/venv/lib/python3.11/site-packages"
LIBRARY = f"{SITE}/torch/lib/libtorch_cuda.so"
EXTENSION = f"{SITE}/torch/_C.cpython-311-x86_64-linux-gnu.so"


@functools.cache
def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


@functools.cache
def library(seed: int) -> bytes:
    """9 MiB; of another seed the same but for scattered bytes, with blocks moved and some inserted."""
    parts = [noise(1000 + n, 1 << 20) for n in range(9)]
    if seed:
        parts = [parts[5], *parts[:5], *parts[6:]]
        parts[2] = parts[2][:5000] + noise(seed, 333) + parts[2][5000:]
        parts[7] = b"".join(bytes([byte ^ (n % 4096 == 0)]) for n, byte in enumerate(parts[7]))
    return b"".join(parts)


def make_tar(entries: list[tuple[tarfile.TarInfo, bytes]], *, format: int = tarfile.GNU_FORMAT) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=format) as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return plain.getvalue()


def file(path: str, content: bytes, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(path)
    entry.mode, entry.mtime = mode, 1577836800
    return entry, content


def link(path: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    entry, _ = file(path, b"", 0o777)
    entry.type, entry.linkname = kind, target
    return entry, b""


@functools.cache
def base_tar() -> bytes:
    """Owners, links, long and odd names, an extended attribute, padding behind the end."""
    owned = file("usr/bin/tool", b"#!/bin/sh\n" + b"echo a line that repeats\n" * 4000, 0o4755)
    owned[0].uid, owned[0].gid = 0, 42
    capable = file("usr/bin/capable", b"x" * 900, 0o755)
    capable[0].pax_headers = {"SCHILY.xattr.user.note": "kept"}
    folders = [link(path, "", tarfile.DIRTYPE) for path in ("usr", "usr/bin", "usr/lib", "usr/share")]
    entries = [
        *folders,
        owned,
        capable,
        file("usr/lib/" + "long-" * 40 + "name", b"long"),
        file("usr/share/Grüße", b"hello" * 200),
        file("usr/share/empty", b""),
        link("bin", "usr/bin", tarfile.SYMTYPE),
        link("usr/bin/again", "usr/bin/tool", tarfile.LNKTYPE),
        file("usr/share/licence", b"A licence that the far machine has too.\n" * 30),
    ]
    return make_tar(entries, format=tarfile.PAX_FORMAT) + bytes(4096)


@functools.cache
def torch_tar() -> bytes:
    return make_tar(
        [
            file(LIBRARY, library(7), 0o755),
            file(EXTENSION, library(9)[1 << 20 : 4 << 20], 0o755),
            file(f"{SITE}/torch/same.py", b"SAME = 1\n" * 500),
            file(f"{SITE}/torch/tiny.py", b"TINY = 1\n"),
            file(f"{SITE}/torch/stranger.so", noise(77, 200_000)),
            file(f"{SITE}/nvidia/lib/libcublas.so.13", noise(5, 3 << 20), 0o755),
        ]
    )


def code_tar(text: str) -> bytes:
    return make_tar([file(f"{SITE}/torch/__pycache__/same.cpython-311.pyc", text.encode() * 300)])


def write_far(folder: Path) -> Path:
    """A site-packages of another interpreter: the same wheel's files, and builds of its own."""
    files = {
        "torch/lib/libtorch_cuda.so": library(0),
        "torch/_C.cpython-312-x86_64-linux-gnu.so": library(0)[: 3 << 20],
        "torch/same.py": b"SAME = 1\n" * 500,
        "torch/tiny.py": b"TINY = 1\n",
        "torch/stranger.so": noise(78, 200_000),
        "elsewhere/libcublas.so.13": noise(5, 3 << 20),
        "LICENCE": b"A licence that the far machine has too.\n" * 30,
        "unrelated.bin": noise(79, 100_000),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "link.py").symlink_to("torch/same.py")
    return folder


@functools.cache
def _compressed(plain: bytes, zstd: bool) -> bytes:
    return zstandard.ZstdCompressor().compress(plain) if zstd else gzip.compress(plain, 1, mtime=0)


def put_layer(store: Store, name: str, plain: bytes, *, zstd: bool = False) -> Layer:
    data = _compressed(plain, zstd)
    return Layer(
        name=name,
        digest=store.layout.put(data),
        diff_id=of_bytes(plain),
        size=len(data),
        media_type=LAYER_ZSTD if zstd else LAYER_GZIP,
    )


@dataclass(frozen=True)
class World:
    """Here: a store with an image. There: another store, and what that machine has."""

    here: Store
    there: Store
    far: Path
    folder: Path
    sandbox: Sandbox

    def image(self, code: str = "code one\n") -> ImageRef:
        """The image; another ``code`` changes its last layer."""
        layers = (
            put_layer(self.here, "base", base_tar()),
            put_layer(self.here, "torch", torch_tar(), zstd=True),
            put_layer(self.here, "torch-bytecode", code_tar(code)),
        )
        run = RunConfig(env={}, entrypoint=(), cmd=("sh",), working_dir="/", user="", labels={})
        image = Image(layers=layers, run=run, created="2020-01-01T00:00:00Z")
        self.here.layout.put(image.config_bytes)
        self.here.layout.put(image.manifest_bytes)
        return ImageRef.read(self.here.layout, image.digest, (NAME,))

    def have(self, *places: Path) -> Far:
        return read_far(places or (self.far,), jobs=2, progress=SilentProgress())

    def pack(
        self,
        image: ImageRef | None = None,
        *,
        far: Far | None = None,
        output: str = "bundle",
        piece_size: int = 250_000,
        level: int = 3,
    ) -> Packed:
        target = self.folder / output
        target.mkdir(exist_ok=True)
        with self.here.scratch("test") as scratch:
            request = Request(
                ref="made:v1",
                image=image or self.image(),
                recipes={"made/v1/recipe.toml": b"# a recipe\n"},
                far=self.have() if far is None else far,
                output=target,
                scratch=scratch,
                piece_size=piece_size,
                level=level,
                jobs=2,
            )
            return pack(request, SilentProgress())

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def deliver(
        self, *folders: Path, have: tuple[Path, ...] | None = None, partial: bool = False
    ) -> Delivered:
        order = Order(
            folders=folders or (self.bundle,),
            have=(self.far,) if have is None else have,
            name=NAME,
            partial=partial,
            jobs=2,
        )
        return deliver(order, self.there, self.sandbox, SilentProgress())

    def plan(self) -> dict[str, list[list[object]]]:
        """The plan as plain values."""
        with zstandard.ZstdDecompressor().stream_reader((self.bundle / "plan.zst").read_bytes()) as reader:
            found: dict[str, list[list[object]]] = msgspec.json.decode(reader.read())
        return found
