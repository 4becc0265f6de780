"""Take a bundle in: its pieces from one or several folders, layers made again, the image known to the store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from envbuild.bundle.model import PATCH, Index, LayerPlan, Plan, read_plan
from envbuild.bundle.pieces import PieceReader
from envbuild.bundle.rebuild import Work
from envbuild.bundle.taking import forget_pieces, locate, one_index, take_pieces
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import MANIFEST, Descriptor
from envbuild.oci.disk import disk_full, guarded
from envbuild.progress import Progress
from envbuild.sandbox import Sandbox
from envbuild.sandbox.unpack import root_name
from envbuild.store import Store

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """Where a delivery stands.

    ``made`` are the layers (diff_ids) that this run made, ``present`` those that were there, ``waiting`` those that
    wait for pieces; ``missing`` names the pieces that are not here. The image is in the store when nothing waits and
    nothing is missing.
    """

    index: Index
    made: tuple[str, ...]
    present: tuple[str, ...]
    waiting: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the image is in the store."""
        return not self.waiting and not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to take in.

    Args:
        folders: where index and pieces are; the first one that has an index counts.
        have: folders of this machine with the far files.
        name: the name that the store gives the image.
        partial: whether pieces may be missing: what is here is then kept in the store, and the layers that can be
            made are made.
        jobs: how many files are hashed and how many layers are made at once.
    """

    folders: Sequence[Path]
    have: Sequence[Path]
    name: str
    partial: bool
    jobs: int


def deliver(order: Order, store: Store, sandbox: Sandbox, progress: Progress) -> Delivered:
    """Take in what is there, prove every diff_id, and name the image once it is whole. Can run again at any time.

    Raises:
        EnvbuildError: exit 2: no such folder, no bundle; exit 5: pieces missing or damaged, a far file missing or
            other than the bundle expects, a layer that is not the image's; exit 7: a full disk.
    """
    index = one_index(order.folders)
    found, missing = take_pieces(index, order.folders, store, keep=order.partial, progress=progress)
    names = tuple(piece.file for piece in missing)
    if missing and not order.partial:
        raise _incomplete(index, names)
    if index.plan in missing:
        return Delivered(index=index, made=(), present=(), waiting=index.diff_ids, missing=names)
    plan = read_plan(found[index.plan.sha256], index)
    reader = _reader(index, found)
    undone = [layer for layer in plan.layers if not (store.roots / root_name([layer.diff_id])).is_dir()]
    ready = [layer for layer in undone if all(reader.covers(*span) for span in plan.spans(layer))]
    _check_room(store, ready)
    far = _far_files(plan, ready, order, progress)
    _make(Job(plan=plan, far=far, reader=reader), ready, store, sandbox, order.jobs, progress)
    if len(ready) == len(undone):
        _name(index, store, order.name)
        forget_pieces(index, store)
        missing = []
    return Delivered(
        index=index,
        made=tuple(layer.diff_id for layer in ready),
        present=tuple(layer.diff_id for layer in plan.layers if layer not in undone),
        waiting=tuple(layer.diff_id for layer in undone if layer not in ready),
        missing=tuple(piece.file for piece in missing),
    )


def _incomplete(index: Index, names: Sequence[str]) -> EnvbuildError:
    return EnvbuildError(
        "bundle-incomplete",
        f"{len(names)} of {len(index.pieces) + 1} files of the bundle are not here: {_some(names)}",
        hint="bring them, name their folders too (`envbuild unbundle DIR DIR2 …`), or take in what is here with "
        "--partial and the rest later",
        exit=Exit.VERIFY,
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _reader(index: Index, found: Mapping[str, Path]) -> PieceReader:
    pieces, at = [], 0
    for piece in index.pieces:
        if piece.sha256 in found:
            pieces.append((found[piece.sha256].absolute(), at, piece.size))
        at += piece.size
    return PieceReader(pieces=tuple(pieces))


def _check_room(store: Store, layers: Sequence[LayerPlan]) -> None:
    """Refuse before the first byte where the layers do not fit."""
    needed = sum(layer.size for layer in layers)
    with guarded(store.roots):
        space = os.statvfs(store.roots)
    free = space.f_bavail * space.f_frsize
    if needed > free:
        raise disk_full(store.root, f"the layers take about {needed:,} bytes")


def _far_files(plan: Plan, layers: Sequence[LayerPlan], order: Order, progress: Progress) -> dict[int, Path]:
    """Where each far file that the layers need is here, proven by its hash."""
    needed = sorted(set().union(*(plan.far_of(layer) for layer in layers)))
    return locate({n: plan.far[n] for n in needed}, order.have, jobs=order.jobs, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every layer is made of."""

    plan: Plan
    far: Mapping[int, Path]
    reader: PieceReader

    def work(self, layer: LayerPlan, final: Path) -> Work:
        """One layer's share."""
        return Work(
            layer=layer,
            patches={n: self.plan.patches[n] for kind, n in layer.parts if kind == PATCH},
            far={n: str(self.far[n].absolute()) for n in self.plan.far_of(layer)},
            pieces=tuple((str(path), at, size) for path, at, size in self.reader.pieces),
            final=str(final.absolute()),
        )


def _make(
    job: Job, layers: Sequence[LayerPlan], store: Store, sandbox: Sandbox, jobs: int, progress: Progress
) -> None:
    """Make and unpack the layers, the biggest first."""
    if not layers:
        return
    with (
        progress.task("make layers", total=sum(layer.size for layer in layers)) as task,
        ThreadPoolExecutor(max_workers=jobs) as pool,
    ):

        def make(layer: LayerPlan) -> None:
            work = job.work(layer, store.roots / root_name([layer.diff_id]))
            arguments = msgspec.to_builtins(work, str_keys=True)
            sandbox.call("envbuild.bundle.rebuild:unpack", arguments, advance=task.advance)

        started = [pool.submit(make, layer) for layer in sorted(layers, key=lambda item: -item.size)]
        try:
            for future in started:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _name(index: Index, store: Store, name: str) -> None:
    """Manifest and config into the layout, then the name."""
    layout = store.layout
    layout.put(index.config.text.encode())
    layout.put(index.manifest.text.encode())
    size = len(index.manifest.text.encode())
    layout.tag(name, Descriptor(media_type=MANIFEST, digest=index.manifest.digest, size=size))
