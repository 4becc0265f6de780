"""A bundle's two documents: the index (what there is) and the plan (how layers are put together from it)."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, NoReturn

import msgspec
import zstandard

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import of_bytes
from envbuild.recipe import parse_ref

KIND: Final = "envbuild.bundle"
FORMAT: Final = 1
INDEX: Final = "index.json"
PLAN: Final = "plan.zst"
RECIPES: Final = "recipes"
BLOCK: Final = 64 << 10
"""Dictionaries of patches are whole blocks of this many bytes of a far file."""
CHUNK: Final = 4 << 20
"""Bytes of a patched file that one frame of its patch gives."""
_PLAN_LIMIT = 1 << 30

LITERAL: Final = 0
FAR: Final = 1
PATCH: Final = 2


class Piece(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle: name, bytes, sha256 (hex)."""

    file: str
    size: int
    sha256: str


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The image's manifest or config: its digest, and its bytes as text (both are JSON)."""

    digest: str
    text: str


class Index(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``index.json``: which image, and the files that hold it. Concatenated, the pieces are one run of streams.

    ``inputs`` is a digest of what the layers' form depends on besides them: far files and compression.
    """

    kind: Literal["envbuild.bundle"]
    format: Literal[1]
    ref: str
    manifest: Document
    config: Document
    inputs: str
    plan: Piece
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes of plan and pieces."""
        return self.plan.size + sum(piece.size for piece in self.pieces)


class FarFile(msgspec.Struct, frozen=True, array_like=True):
    """A file that the far machine has: where it was seen there (a hint), bytes, sha256 (hex)."""

    path: str
    size: int
    sha256: str


class Stream(msgspec.Struct, frozen=True, array_like=True):
    """Compressed bytes: where they start in the run of all pieces, and how many."""

    start: int
    length: int


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One chunk of a patched file: its compressed bytes, and the runs of blocks (first, count) that it draws on."""

    length: int
    blocks: tuple[tuple[int, int], ...]


class Patch(msgspec.Struct, frozen=True, array_like=True):
    """A file of ``size`` bytes as the difference to far file number ``far``, frame after frame from ``start``."""

    far: int
    size: int
    start: int
    frames: tuple[Frame, ...]


class LayerPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer's tar.

    Args:
        diff_id: what the tar's digest must be.
        size: the tar's bytes.
        literal: the stream of all that travels as it is; None where nothing does.
        parts: pairs in the tar's order: (LITERAL, bytes), (FAR, number of a far file), (PATCH, number of a patch).
    """

    diff_id: str
    size: int
    literal: Stream | None
    parts: tuple[tuple[int, int], ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plan.zst``: how every layer is made, bottom first."""

    far: tuple[FarFile, ...]
    patches: tuple[Patch, ...]
    layers: tuple[LayerPlan, ...]

    def far_of(self, layer: LayerPlan) -> set[int]:
        """The far files that a layer draws on."""
        return {n for kind, n in layer.parts if kind == FAR} | {
            self.patches[n].far for kind, n in layer.parts if kind == PATCH
        }

    def spans(self, layer: LayerPlan) -> list[tuple[int, int]]:
        """The ranges (start, end) of the pieces' run that a layer draws on."""
        found = [] if layer.literal is None else [(layer.literal.start, layer.literal.length)]
        for kind, n in layer.parts:
            if kind == PATCH:
                patch = self.patches[n]
                found.append((patch.start, sum(frame.length for frame in patch.frames)))
        return [(start, start + length) for start, length in found]


def index_bytes(index: Index) -> bytes:
    """The index file's content."""
    return msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n"


def plan_bytes(plan: Plan) -> bytes:
    """The plan file's content: JSON in one zstd frame."""
    return zstandard.ZstdCompressor(level=19).compress(msgspec.json.encode(plan))


def read_index(folder: Path) -> Index:
    """Read ``index.json``.

    Raises:
        EnvbuildError: exit 2 where there is none; exit 5 when it is no index, or its parts contradict each other.
    """
    path = folder / INDEX
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EnvbuildError(
            "no-bundle",
            f"{folder} holds no bundle: {INDEX}: {error.strerror}",
            where=str(path),
            hint=f"name the folder that `envbuild bundle` wrote; {INDEX} must lie beside the pieces",
            exit=Exit.USAGE,
        ) from error
    try:
        index = msgspec.json.decode(data, type=Index)
    except ValueError as error:
        _refuse(path, str(error))
    try:
        parse_ref(index.ref)
    except EnvbuildError:
        _refuse(path, f"its ref {index.ref!r} is no reference to a recipe")
    for name, document in (("manifest", index.manifest), ("config", index.config)):
        if of_bytes(document.text.encode()) != document.digest:
            _refuse(path, f"the {name}'s text is not that of {document.digest}")
    for piece in (index.plan, *index.pieces):
        if (
            "/" in piece.file
            or piece.file in ("", ".", "..")
            or piece.size < 0
            or not piece.file.isprintable()
        ):
            _refuse(path, f"{piece.file!r} is no file name")
    return index


def read_plan(data: bytes, index: Index, where: Path) -> Plan:
    """Read the plan, whose hash was checked, and see that it is about the index's image and stays in its bounds.

    Raises:
        EnvbuildError: exit 5.
    """
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            plan = msgspec.json.decode(reader.read(_PLAN_LIMIT), type=Plan)
        config = msgspec.json.decode(index.config.text)
        wanted = config["rootfs"]["diff_ids"]
    except (ValueError, zstandard.ZstdError, KeyError, TypeError) as error:
        _refuse(where, str(error))
    if wanted != [layer.diff_id for layer in plan.layers]:
        _refuse(where, "its layers are not those of the image's config")
    end = sum(piece.size for piece in index.pieces)
    counts = {FAR: len(plan.far), PATCH: len(plan.patches)}
    for layer in plan.layers:
        if any(kind != LITERAL and not 0 <= n < counts.get(kind, 0) for kind, n in layer.parts):
            _refuse(where, f"the parts of layer {layer.diff_id} name what it does not have")
    spans = [span for layer in plan.layers for span in plan.spans(layer)]
    if any(not 0 <= patch.far < len(plan.far) for patch in plan.patches) or any(
        not 0 <= start <= stop <= end for start, stop in spans
    ):
        _refuse(where, "it names bytes or files that it does not have")
    return plan


def _refuse(where: Path, reason: str) -> NoReturn:
    raise EnvbuildError(
        "bad-bundle",
        f"this is no bundle that envbuild can read: {reason}",
        where=str(where),
        hint="copy the file again from where `envbuild bundle` wrote it, or write the bundle anew",
        exit=Exit.VERIFY,
    )
