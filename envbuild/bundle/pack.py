"""Write a bundle: per layer what the far machine has, what differs a little from that, and what must travel."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from envbuild.bundle import delta
from envbuild.bundle.contents import Content, PlainLayer, plain_layer
from envbuild.bundle.draft import Draft, PatchDraft
from envbuild.bundle.earlier import Earlier, forget, put_aside
from envbuild.bundle.far import Far, Known
from envbuild.bundle.mapped import map_file
from envbuild.bundle.model import (
    FAR,
    FORMAT,
    INDEX,
    KIND,
    LITERAL,
    MAX_WINDOW,
    PATCH,
    PLAN,
    RECIPES,
    Document,
    FarFile,
    Frame,
    Index,
    LayerPlan,
    Patch,
    Piece,
    Plan,
    Stream,
    index_bytes,
    plan_bytes,
)
from envbuild.bundle.pieces import PieceWriter
from envbuild.engine import ImageRef
from envbuild.oci.digest import Digest, canonical_json, of_bytes
from envbuild.oci.disk import guarded
from envbuild.progress import Progress, Task

LEVEL = 19
"""zstd's level for what travels whole: measured in docs/explanation/bundle.md."""
_READ = 1 << 20
_SMALLEST_REFERENCE = 256  # bytes: below, a name and a hash cost as much as the content
_SMALLEST_PATCH = 64 << 10
_ALIKE = 0.02  # share of common anchors from which a patch is tried
_LONG_RANGE = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCount:
    """What became of one layer's bytes: ``far`` are referenced, ``patched`` made by patches, the rest is literal;
    ``packed`` and ``patches`` are the bytes that travel for the latter two.
    """

    diff_id: str
    size: int
    far: int
    patched: int
    packed: int
    patches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What was written."""

    index: Index
    layers: tuple[LayerCount, ...]
    far_files: int
    far_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to pack.

    Args:
        ref: ``name:tag`` of the image's recipe.
        image: an image whose blobs are all in its layout.
        recipes: files that the far machine needs to know the recipe, by relative path.
        far: what the far machine has.
        output: an existing folder; what an older bundle left there is replaced.
        scratch: a folder for as much as the biggest plain layers of ``jobs`` threads take.
        piece_size: bytes at most per piece.
        level: zstd's level.
        jobs: threads.
    """

    ref: str
    image: ImageRef
    recipes: Mapping[str, bytes]
    far: Far
    output: Path
    scratch: Path
    piece_size: int
    level: int
    jobs: int


def pack(request: Request, progress: Progress) -> Packed:
    """Write the bundle; its index comes last, so that a folder without one is not finished.

    Layers that the bundle of an earlier run in the same folder has, made of the same far files and at the same
    level, are taken from there.

    Raises:
        EnvbuildError: exit 2 when ``output`` holds other things or the disk is full; exit 5 when a layer is damaged;
            exit 3 when the store lacks one.
    """
    request.image.check_present()
    inputs = of_bytes(canonical_json([FORMAT, request.level, request.far.digest]))
    drafts = _drafts(request, put_aside(request.output, inputs), progress)
    with progress.task("write pieces", total=sum(draft.travels for draft in drafts)) as task:
        writer = PieceWriter(folder=request.output, limit=request.piece_size)
        plan = _number(drafts, writer, task)
        writer.close()
    data = plan_bytes(plan)
    with guarded(request.output):
        (request.output / PLAN).write_bytes(data)
        for name, content in request.recipes.items():
            target = request.output / RECIPES / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    index = _index(request, inputs, data, writer.done)
    with guarded(request.output):
        (request.output / INDEX).write_bytes(index_bytes(index))
    forget(request.output)
    return Packed(
        index=index,
        layers=tuple(_count(draft) for draft in drafts),
        far_files=len(plan.far),
        far_bytes=sum(file.size for file in plan.far),
    )


def _drafts(request: Request, earlier: Earlier | None, progress: Progress) -> list[Draft]:
    """Every layer's draft, made with as many threads as there are jobs, the biggest first."""
    layers = dict(zip(request.image.diff_ids, request.image.layers, strict=True))
    with (
        progress.task("read layers", total=sum(layer.size for layer in layers.values())) as reading,
        progress.task("compress") as compressing,
        ThreadPoolExecutor(max_workers=request.jobs) as pool,
    ):
        maker = _Maker(request=request, earlier=earlier, account=_Account(compressing))
        started = {
            diff_id: pool.submit(
                maker.draft, request.image.layout.path(layer.digest), diff_id, reading.advance
            )
            for diff_id, layer in sorted(layers.items(), key=lambda item: -item[1].size)
        }
        try:
            return [started[diff_id].result() for diff_id in request.image.diff_ids]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Account:
    """A task whose total becomes known while it runs."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._total = 0

    def more(self, amount: int) -> None:
        with self._lock:
            self._total += amount
            self._task.total(self._total)

    def advance(self, amount: int) -> None:
        self._task.advance(amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """Makes drafts. ``lock``: one old file at a time has its anchors in memory."""

    request: Request
    earlier: Earlier | None
    account: _Account
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draft(self, blob: Path, diff_id: str, advance: Callable[[int], None]) -> Draft:
        scratch = self.request.scratch / Digest(diff_id).hex
        packed = self.earlier.draft(diff_id, self.request.far, scratch) if self.earlier else None
        if packed is not None:
            advance(blob.stat().st_size)
            return packed
        with plain_layer(blob, diff_id, scratch.with_suffix(".tar"), advance=advance) as layer:
            draft = Draft(diff_id=diff_id, size=len(layer.data))
            at = 0
            ranges: list[tuple[int, int]] = []
            for content in layer.files:
                part = self._part(layer, content, scratch)
                if part is not None:
                    _literal(draft, ranges, at, content.start)
                    draft.parts.append(part)
                    at = content.end
            _literal(draft, ranges, at, len(layer.data))
            if ranges:
                draft.literal = scratch.with_suffix(".zst")
                draft.literal_size = self._compress(layer.data, ranges, draft.literal)
        return draft

    def _part(self, layer: PlainLayer, content: Content, scratch: Path) -> Known | PatchDraft | None:
        """What stands for a file's content; None when it travels as it is."""
        size = content.end - content.start
        if size < _SMALLEST_REFERENCE:
            return None
        data = layer.data[content.start : content.end]
        found = self.request.far.by_hash.get(hashlib.sha256(data).hexdigest())
        if found is not None:
            return found
        known = self.request.far.like(content.path) if size >= _SMALLEST_PATCH else None
        if known is None or known.local is None or known.file.size < _SMALLEST_PATCH:
            return None
        return self._patch(data, known, scratch.with_suffix(f".{content.start}.patch"))

    def _patch(self, new: memoryview, known: Known, path: Path) -> PatchDraft | None:
        assert known.local is not None
        with self.lock:
            old = delta.OldFile.read(map_file(known.local))
            if old.common(new) < _ALIKE:
                return None
            self.account.more(len(new))
            frames = []
            with guarded(path), path.open("wb") as out:
                for low, high in delta.chunks(len(new)):
                    frame, blocks = delta.make(old, new, low, high)
                    out.write(frame)
                    frames.append(Frame(len(frame), blocks))
                    self.account.advance(high - low)
        return PatchDraft(known=known, size=len(new), frames=frames, file=path)

    def _compress(self, data: memoryview, ranges: Iterable[tuple[int, int]], path: Path) -> int:
        """Compress the ranges as one stream; the bytes that it takes."""
        ranges = list(ranges)
        total = sum(end - start for start, end in ranges)
        self.account.more(total)
        settings = zstandard.ZstdCompressionParameters.from_level(
            self.request.level,
            source_size=total,
            window_log=min(MAX_WINDOW, max(20, total.bit_length())),
            enable_ldm=total >= _LONG_RANGE,
        )
        stream = zstandard.ZstdCompressor(compression_params=settings).compressobj(size=total)
        with guarded(path), path.open("wb") as out:
            for start, end in ranges:
                for low in range(start, end, _READ):
                    high = min(low + _READ, end)
                    out.write(stream.compress(data[low:high]))
                    self.account.advance(high - low)
            out.write(stream.flush())
            return out.tell()


def _literal(draft: Draft, ranges: list[tuple[int, int]], start: int, end: int) -> None:
    if start < end:
        ranges.append((start, end))
        draft.parts.append(end - start)


def _number(drafts: list[Draft], writer: PieceWriter, task: Task) -> Plan:
    """Write every draft's bytes, layer after layer, and put numbers for far files and patches."""
    far: dict[str, int] = {}
    files: list[FarFile] = []
    patches: list[Patch] = []
    layers = []

    def number(known: Known) -> int:
        if known.file.sha256 not in far:
            far[known.file.sha256] = len(files)
            files.append(known.file)
        return far[known.file.sha256]

    for draft in drafts:
        stream = None
        if draft.literal is not None:
            stream = Stream(writer.position, draft.literal_size)
            _copy(draft.literal, writer, task)
        parts: list[tuple[int, int]] = []
        for part in draft.parts:
            if isinstance(part, int):
                parts.append((LITERAL, part))
            elif isinstance(part, Known):
                parts.append((FAR, number(part)))
            else:
                parts.append((PATCH, len(patches)))
                patches.append(Patch(number(part.known), part.size, writer.position, tuple(part.frames)))
                _copy(part.file, writer, task)
        layers.append(LayerPlan(diff_id=draft.diff_id, size=draft.size, literal=stream, parts=tuple(parts)))
    return Plan(far=tuple(files), patches=tuple(patches), layers=tuple(layers))


def _copy(path: Path, writer: PieceWriter, task: Task) -> None:
    with path.open("rb") as stream:
        while data := stream.read(_READ):
            writer.write(data)
            task.advance(len(data))
    path.unlink()


def _index(request: Request, inputs: str, plan: bytes, pieces: list[Piece]) -> Index:
    layout, image = request.image.layout, request.image
    return Index(
        kind=KIND,
        format=FORMAT,
        ref=request.ref,
        manifest=Document(digest=image.manifest, text=layout.read(image.manifest).decode()),
        config=Document(digest=image.config, text=layout.read(image.config).decode()),
        inputs=inputs,
        plan=Piece(file=PLAN, size=len(plan), sha256=hashlib.sha256(plan).hexdigest()),
        pieces=tuple(pieces),
    )


def _count(draft: Draft) -> LayerCount:
    return LayerCount(
        diff_id=draft.diff_id,
        size=draft.size,
        far=sum(part.file.size for part in draft.parts if isinstance(part, Known)),
        patched=sum(patch.size for patch in draft.patches),
        packed=draft.literal_size,
        patches=sum(patch.travels for patch in draft.patches),
    )
