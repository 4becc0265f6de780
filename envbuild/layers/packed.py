"""A folder as a layer: a sorted tar, compressed in pieces by the image's own gzip, so that the bytes are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envbuild.layers.interpreter import gzip_files
from envbuild.oci.layer import Layer
from envbuild.progress import Progress
from envbuild.sandbox import Rootfs, Sandbox
from envbuild.store import Store

_LEVEL = 5
_CHUNK = 64 << 20
"""The tar is compressed in pieces of this size (bytes), a gzip member each, so that all cores help."""


def pack_folder(
    name: str,
    root: Path,
    *,
    gzip_root: Rootfs,
    work: Path,
    sandbox: Sandbox,
    store: Store,
    progress: Progress,
    jobs: int,
) -> Layer:
    """Make a layer of everything below ``root``.

    Args:
        name: the layer's name for people.
        root: its owners and modes are kept, its times are not.
        gzip_root: the image whose gzip compresses.
        work: a folder for files of this call.
        sandbox, store, progress: as everywhere; the blob goes into the store's layout.
        jobs: processes.

    Raises:
        EnvbuildError: exit 7, gzip cannot be run; what writing to the store raises.
    """
    tar = work / f"{name}.tar"
    arguments = {"root": str(root), "out": str(tar)}
    with progress.task(f"pack the {name}") as task:
        packed: Any = sandbox.call("envbuild.layers.base_pack:pack", arguments, advance=task.advance)
    pieces = [work / f"{number}.part" for number in range(-(-int(packed["size"]) // _CHUNK))]
    with tar.open("rb") as stream:
        for piece in pieces:
            with piece.open("wb") as out:
                for _ in range(_CHUNK >> 20):
                    out.write(stream.read(1 << 20))
    tar.unlink()
    pairs = [(piece, piece.with_suffix(".gz")) for piece in pieces]
    with progress.task(f"compress the {name}", unit="pieces"):
        gzip_files(sandbox, gzip_root, pairs, level=_LEVEL, jobs=jobs)
    with store.layout.writer() as writer:
        for _, compressed in pairs:
            with compressed.open("rb") as stream:
                while data := stream.read(1 << 20):
                    writer.write(data)
    return Layer(name=name, digest=writer.digest, diff_id=str(packed["diff_id"]), size=writer.size)
