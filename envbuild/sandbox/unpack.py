"""Layers unpacked into root folders: ``roots/<hex of diff_id>/``, whole or not at all.

A root appears under its name by a rename after its diff_id was verified. It is not synced to disk: after a power
cut the store's owner may remove ``roots/`` at any time, since it can be made again from the blobs.

Two processes: one decompresses and hashes, the other writes files from inside of the new root, where no name that a
layer has leads to this machine's files.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO

import zstandard
from isal import igzip_lib

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import Digest, Sha256
from envbuild.oci.tar_reader import entries
from envbuild.progress import Progress
from envbuild.sandbox.host import Sandbox
from envbuild.sandbox.inside import within
from envbuild.sandbox.tarstream import Frames, HashedTar, TarStream, send_frames
from envbuild.sandbox.tree_writer import TreeWriter
from envbuild.sandbox.trees import remove

_HALF = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{8}")


def root_name(diff_ids: Sequence[str]) -> str:
    """The folder name of a root: of one layer its diff_id, of several the ChainID (config.md), without algorithm.

    Raises:
        BadDigest: a diff_id is no digest (exit 5).
    """
    chain, *others = map(Digest, diff_ids)
    for diff_id in others:
        chain = Digest("sha256:" + sha256(f"{chain} {diff_id}".encode()).hexdigest())
    return chain.hex


def unpack_layers(
    sandbox: Sandbox, layers: Sequence[tuple[str, Path]], roots: Path, *, jobs: int, progress: Progress
) -> tuple[Path, ...]:
    """Unpack each layer that is not there yet into a root of its own, for use as overlay lowers.

    Args:
        sandbox: whose uid 0 owns the files.
        layers: diff_id and blob (gzip, zstd or plain tar) of each.
        roots: the store's folder of roots.
        jobs: how many at once.
        progress: shown in compressed bytes.

    Returns:
        The roots, in the order of ``layers``.

    Raises:
        EnvbuildError: exit 5; a blob is damaged, hostile or not the one of its diff_id. Exit 7: disk full.
    """
    missing = {diff_id: blob for diff_id, blob in layers if not (roots / root_name([diff_id])).is_dir()}
    if missing:
        total = sum(blob.stat().st_size for blob in missing.values())
        with progress.task("unpack layers", total=total) as task, ThreadPoolExecutor(max(1, jobs)) as pool:
            by_size = sorted(missing.items(), key=lambda item: -item[1].stat().st_size)
            started = [pool.submit(_unpack, sandbox, [item], roots, task.advance) for item in by_size]
            try:
                for future in started:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return tuple(roots / root_name([diff_id]) for diff_id, _ in layers)


def unpack_layer(
    sandbox: Sandbox, blob: Path, diff_id: str, roots: Path, *, advance: Callable[[int], None] | None = None
) -> Path:
    """Unpack one layer into ``roots``, if it is not there; as :func:`unpack_layers`."""
    return _unpack(sandbox, [(diff_id, blob)], roots, advance)


def unpack_flat(
    sandbox: Sandbox, layers: Sequence[tuple[str, Path]], roots: Path, *, progress: Progress
) -> Path:
    """Unpack all layers, bottom first, into one root, whiteouts applied.

    Arguments and errors as for :func:`unpack_layers`.
    """
    total = sum(blob.stat().st_size for _, blob in layers)
    with progress.task("unpack image", total=total) as task:
        return _unpack(sandbox, layers, roots, task.advance)


def _unpack(
    sandbox: Sandbox, layers: Sequence[tuple[str, Path]], roots: Path, advance: Callable[[int], None] | None
) -> Path:
    final = roots / root_name([diff_id for diff_id, _ in layers])
    if final.is_dir():
        return final
    arguments = {
        "layers": [[diff_id, str(blob.absolute())] for diff_id, blob in layers],
        "final": str(final.absolute()),
    }
    sandbox.call("envbuild.sandbox.unpack:unpack", arguments, advance=advance)
    return final


def unpack(arguments: Mapping[str, object], advance: Callable[[int], None]) -> int:
    """In the helper process: unpack ``layers`` (pairs of diff_id and path) to the folder ``final``.

    Returns:
        The number of entries.
    """
    layers, final = arguments["layers"], Path(str(arguments["final"]))
    assert isinstance(layers, list)
    sources = [
        _Source(
            name=Path(blob).name, where=blob, diff_id=diff_id, open=partial(TarStream, Path(blob), advance)
        )
        for diff_id, blob in layers
    ]
    return _write(final, sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A layer to unpack: what errors call it, its file if it is one, its diff_id, and its tar."""

    name: str
    where: str | None
    diff_id: str
    open: Callable[[], HashedTar]


def unpack_stream(stream: HashedTar, diff_id: str, final: Path, *, name: str) -> int:
    """In the helper process: unpack one layer that is read from ``stream``, which is closed, to ``final``.

    Args:
        stream: the plain tar.
        diff_id: what its digest must be.
        final: the root; nothing is there when this fails.
        name: what errors call the layer.

    Returns:
        The number of entries.

    Raises:
        EnvbuildError: exit 5, ``layer-damaged`` or ``layer-hostile``.
    """
    return _write(final, [_Source(name=name, where=None, diff_id=diff_id, open=lambda: stream)])


def _write(final: Path, layers: Sequence[_Source]) -> int:
    """Make a root of one layer, whose whiteouts stay, or of several; whole or not at all."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary, claim = _begin(final)
    try:
        count = within(str(temporary), lambda pipe: _receive(pipe, layers), lambda pipe: _send(pipe, layers))
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was as good
                raise
    finally:
        if temporary.exists():
            remove({"path": str(temporary)}, lambda _: None)
        os.close(claim)
    return int(str(count))


def _begin(final: Path) -> tuple[Path, int]:
    """Sweep, then make and claim a folder to unpack into; one process at a time, or a sweep takes a new folder."""
    roots = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(roots, fcntl.LOCK_EX)
        _sweep(final.parent)
        temporary = final.parent / f".{Sha256(final.name)}.{secrets.token_hex(4)}"
        temporary.mkdir(0o755)
        return temporary, _claim(temporary)
    finally:
        os.close(roots)


def _claim(folder: Path) -> int:
    """Lock a folder as being in use; the lock ends with this process, however it ends.

    Raises:
        BlockingIOError: another process uses it.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _sweep(roots: Path) -> None:
    """Remove what killed processes left half unpacked: folders of the names that :func:`_begin` makes, no others."""
    for folder in [path for path in roots.iterdir() if _HALF.fullmatch(path.name)]:
        try:
            claim = _claim(folder)
        except OSError:
            continue
        try:
            remove({"path": str(folder)}, lambda _: None)
        finally:
            os.close(claim)


def _send(pipe: IO[bytes], layers: Sequence[_Source]) -> None:
    """Read and verify the layers, and hand their tars on."""
    for layer in layers:
        stream = layer.open()
        try:
            send_frames(stream, pipe)
        except (EOFError, igzip_lib.IsalError, zstandard.ZstdError, OSError) as error:  # type: ignore[misc] # isal's stub
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _damaged(layer, str(error)) from error
        finally:
            stream.close()
        if stream.digest() != layer.diff_id:
            raise _damaged(layer, f"its content is {stream.digest()}, expected {layer.diff_id}")


def _receive(pipe: IO[bytes], layers: Sequence[_Source]) -> int:
    """Inside the root: write what comes; the number of entries."""
    writer = TreeWriter("/", overlaid=len(layers) == 1)
    frames = Frames(pipe)
    for layer in layers:
        writer.start_layer()
        frames.start()
        try:
            for entry, content in entries(frames):
                writer.add(entry, content)
            frames.drain()
        except (tarfile.TarError, EOFError) as error:
            raise _damaged(layer, str(error)) from error
    writer.finish()
    return writer.entries


def _damaged(layer: _Source, reason: str) -> EnvbuildError:
    return EnvbuildError(
        "layer-damaged",
        f"layer {layer.name} does not unpack: {reason}",
        where=layer.where,
        hint="remove this file and run the command again: it is then fetched or built again",
        exit=Exit.VERIFY,
    )
