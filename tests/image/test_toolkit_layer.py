"""The layer with the CUDA toolkit: the same bytes whatever the caller's umask and cores, owned by root."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from smallimage import SmallWorld

from envbuild.image.toolkit import make_toolkit
from envbuild.layers.base import base_root
from envbuild.layers.format import MTIME, SITE
from envbuild.lock.model import Artifact
from envbuild.native.toolchain import Piece
from envbuild.native.toolkit import Toolkit
from envbuild.oci.layer import Layer
from envbuild.progress import SilentProgress

pytestmark = [pytest.mark.network, pytest.mark.timeout(900)]
NAME = "nvidia-cuda-runtime"


def some_toolkit(small: SmallWorld, folder: Path) -> Toolkit:
    """A compiler of one file, a folder of headers, a library to link to."""
    wheel = folder / "runtime.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nvidia/cu13/bin/nvcc", b"#!/bin/sh\necho an nvcc\n")
        archive.writestr("nvidia/cu13/include/cuda.h", b"// a header\n" * 1000)
        archive.writestr("nvidia/cu13/include/crt/deep.h", b"")
        archive.writestr("nvidia/cu13/lib/libcudart.so.13", b"a library")
    size = wheel.stat().st_size
    sha256 = small.store.adopt(wheel)
    artifact = Artifact(
        kind="wheel", name=NAME, version="13.0", file="runtime.whl", size=size, sha256=sha256, index="python"
    )
    pieces = (
        Piece(artifact=NAME, source="nvidia/cu13/bin/nvcc", target="bin/nvcc", program=True),
        Piece(artifact=NAME, source="nvidia/cu13/include/", target="include/"),
    )
    return Toolkit(pieces=pieces, artifacts={NAME: artifact}, linked=(NAME,))


def make(small: SmallWorld, toolkit: Toolkit, *, umask: int, jobs: int) -> Layer:
    silent = SilentProgress()
    base = next(layer for layer in small.built.image.layers if layer.name == "base")
    root = base_root(base, sandbox=small.sandbox, store=small.store, progress=silent)
    before = os.umask(umask)
    try:
        return make_toolkit(
            toolkit, base_root=root, sandbox=small.sandbox, store=small.store, progress=silent, jobs=jobs
        )
    finally:
        os.umask(before)


def test_the_layer_is_the_same_each_time_and_holds_links_and_no_library(
    small: SmallWorld, tmp_path: Path
) -> None:
    toolkit = some_toolkit(small, tmp_path)
    layer = make(small, toolkit, umask=0o022, jobs=2)
    assert make(small, toolkit, umask=0o077, jobs=1) == layer
    blob = small.store.layout.path(layer.digest)
    plain = gzip.decompress(blob.read_bytes())
    assert f"sha256:{hashlib.sha256(plain).hexdigest()}" == layer.diff_id
    with gzip.open(blob) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        entries = {entry.name: entry for entry in archive}
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries.values()} == {(0, 0, MTIME)}
    assert {name: entry.mode for name, entry in entries.items() if entry.isfile()} == {
        "usr/local/cuda/bin/nvcc": 0o755,
        "usr/local/cuda/bin/nvcc.profile": 0o644,
        "usr/local/cuda/include/cuda.h": 0o644,
        "usr/local/cuda/include/crt/deep.h": 0o644,
    }
    assert {entry.mode for entry in entries.values() if entry.isdir()} == {0o755}
    links = {name: entry.linkname for name, entry in entries.items() if entry.issym()}
    assert links == {
        "usr/local/cuda/lib64/libcudart.so": "libcudart.so.13",
        "usr/local/cuda/lib64/libcudart.so.13": f"/{SITE}/nvidia/cu13/lib/libcudart.so.13",
    }
