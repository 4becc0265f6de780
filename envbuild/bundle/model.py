"""A bundle's two documents: the index (what there is) and the plan (how layers are put together from it)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import msgspec
import zstandard

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import DIGEST_FORM, SHA256_FORM, of_bytes, read_regular
from envbuild.oci.document import bounded, check_descriptors, read_object
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
MAX_WINDOW: Final = 29
"""2^29 bytes: the whole base fits, so that alike files find each other; unpacking takes as much memory."""
_INDEX_LIMIT = 16 << 20
_PLAN_LIMIT = 64 << 20
"""Bytes of the plan's JSON: 16,000 far files take some 3 MB."""
_DOCUMENT_LIMIT = 4 << 20
"""Bytes of a manifest or config: what `gc` and registries read of one."""
_IMAGE_LIMIT = 1 << 42
"""Bytes of all layers: patches that are named again and again cost time for each of their frames."""
_FRAME_LIMIT = 2 * CHUNK
_DICTIONARY_LIMIT = 1024
"""Blocks of a frame's dictionary: packing takes 400 at most."""

LITERAL: Final = 0
FAR: Final = 1
PATCH: Final = 2


DigestText = Annotated[str, msgspec.Meta(pattern=DIGEST_FORM)]
Sha256Text = Annotated[str, msgspec.Meta(pattern=SHA256_FORM)]
_FILE_FORM = r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,254}\Z"
FileName = Annotated[str, msgspec.Meta(pattern=_FILE_FORM)]
_FORMS = {
    DIGEST_FORM: "a sha256 digest",
    SHA256_FORM: "the 64 hex digits of a sha256",
    _FILE_FORM: "a file name",
}
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Piece(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle: name, bytes, sha256 (hex)."""

    file: FileName
    size: Count
    sha256: Sha256Text


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The image's manifest or config: its digest, and its bytes as text (both are JSON)."""

    digest: DigestText
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

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The image's layers, bottom first. Raises ``ValueError`` where the config is none."""
        with bounded():
            return msgspec.json.decode(self.config.text, type=_Config).rootfs.diff_ids


class FarFile(msgspec.Struct, frozen=True, array_like=True):
    """A file that the far machine has: where it was seen there (a hint), bytes, sha256 (hex)."""

    path: str
    size: Count
    sha256: Sha256Text


class Stream(msgspec.Struct, frozen=True, array_like=True):
    """Compressed bytes: where they start in the run of all pieces, and how many."""

    start: Count
    length: Count


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One chunk of a patched file: its compressed bytes, and the runs of blocks (first, count) that it draws on."""

    length: Count
    blocks: tuple[tuple[Count, Count], ...]


class Patch(msgspec.Struct, frozen=True, array_like=True):
    """A file of ``size`` bytes as the difference to far file number ``far``, frame after frame from ``start``."""

    far: Count
    size: Count
    start: Count
    frames: tuple[Frame, ...]


class LayerPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer's tar.

    Args:
        diff_id: what the tar's digest must be.
        size: the tar's bytes.
        literal: the stream of all that travels as it is; None where nothing does.
        parts: pairs in the tar's order: (LITERAL, bytes), (FAR, number of a far file), (PATCH, number of a patch).
    """

    diff_id: DigestText
    size: Count
    literal: Stream | None
    parts: tuple[tuple[Count, Count], ...]


class _Rootfs(msgspec.Struct, frozen=True, kw_only=True):
    diff_ids: tuple[DigestText, ...]


class _Config(msgspec.Struct, frozen=True, kw_only=True):
    """What counts here of an image config (OCI image spec, config.md)."""

    rootfs: _Rootfs


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
        data = read_regular(path, _INDEX_LIMIT)
    except OSError as error:
        raise EnvbuildError(
            "no-bundle",
            f"{folder} holds no bundle: {INDEX}: {error.strerror}",
            where=str(path),
            hint=f"name the folder that `envbuild bundle` wrote; {INDEX} must lie beside the pieces",
            exit=Exit.USAGE,
        ) from error
    try:
        with bounded():
            index = msgspec.json.decode(data, type=Index)
        _check_ref(index.ref)
        for name, document in (("manifest", index.manifest), ("config", index.config)):
            if len(document.text.encode()) > _DOCUMENT_LIMIT:
                raise ValueError(f"the {name} has more than {_DOCUMENT_LIMIT} bytes")
            if of_bytes(document.text.encode()) != document.digest:
                raise ValueError(f"the {name}'s text is not that of {document.digest}")
        _check_manifest(index)
    except ValueError as error:
        _refuse(path, str(error))
    return index


def _check_ref(ref: str) -> None:
    try:
        parse_ref(ref)
    except EnvbuildError:
        raise ValueError(f"its ref {ref!r} is no reference to a recipe") from None


def _check_manifest(index: Index) -> None:
    """See that the manifest is that of the config, and has as many layers. Raises ``ValueError``."""
    manifest = read_object(index.manifest.text)
    check_descriptors(manifest)
    config, layers = manifest.get("config"), manifest.get("layers")
    if not isinstance(config, dict) or config.get("digest") != index.config.digest:
        raise ValueError("the manifest does not name the config")
    if not isinstance(layers, list) or len(layers) != len(index.diff_ids):
        raise ValueError("the manifest does not have the layers of the config")


def read_plan(path: Path, index: Index) -> Plan:
    """Read the plan, whose hash was checked, and see that it is about the index's image and stays in its bounds.

    Raises:
        EnvbuildError: exit 5; it cannot be read, too.
    """
    try:
        with zstandard.ZstdDecompressor().stream_reader(read_regular(path, _PLAN_LIMIT)) as reader:
            text = reader.read(_PLAN_LIMIT + 1)
        if len(text) > _PLAN_LIMIT:
            raise ValueError(f"the plan has more than {_PLAN_LIMIT} bytes")
        with bounded():
            plan = msgspec.json.decode(text, type=Plan)
        _check_plan(plan, index)
    except OSError as error:
        _refuse(path, error.strerror or str(error))
    except (ValueError, zstandard.ZstdError) as error:
        _refuse(path, str(error))
    return plan


def _check_plan(plan: Plan, index: Index) -> None:
    """See that all that the plan names is there, and that each layer is as long as it says. Raises ``ValueError``."""
    if index.diff_ids != tuple(layer.diff_id for layer in plan.layers):
        raise ValueError("its layers are not those of the image's config")
    for file in plan.far:
        check_path(file.path)
    for number, patch in enumerate(plan.patches):
        _check_patch(patch, f"patch {number}", len(plan.far))
    sizes = {FAR: [file.size for file in plan.far], PATCH: [patch.size for patch in plan.patches]}
    end = sum(piece.size for piece in index.pieces)
    if sum(layer.size for layer in plan.layers) > _IMAGE_LIMIT:
        raise ValueError(f"its layers have more than {_IMAGE_LIMIT} bytes")
    for layer in plan.layers:
        if any(kind != LITERAL and n >= len(sizes.get(kind, ())) for kind, n in layer.parts):
            raise ValueError(f"the parts of layer {layer.diff_id} name what it does not have")
        total = sum(n if kind == LITERAL else sizes[kind][n] for kind, n in layer.parts)
        if total != layer.size:
            raise ValueError(f"the parts of layer {layer.diff_id} have {total} bytes, not {layer.size}")
        if any(stop > end for _, stop in plan.spans(layer)):
            raise ValueError("it names bytes or files that it does not have")


def _check_patch(patch: Patch, where: str, far: int) -> None:
    if patch.far >= far:
        raise ValueError(f"{where} draws on a file that it does not have")
    if len(patch.frames) != -(-patch.size // CHUNK):
        raise ValueError(f"{where} has {len(patch.frames)} frames for {patch.size} bytes")
    for frame in patch.frames:
        if frame.length > _FRAME_LIMIT or sum(count for _, count in frame.blocks) > _DICTIONARY_LIMIT:
            raise ValueError(f"a frame of {where} is bigger than packing makes one")


def check_path(path: str) -> None:
    """See that the path of a far file is relative and stays in its folder. Raises ``ValueError``."""
    if not path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{path[:200]!r} is no relative path")


def _refuse(where: Path, reason: str) -> NoReturn:
    for form, words in _FORMS.items():
        reason = reason.replace(f"`str` matching regex {form!r}", words)
    raise EnvbuildError(
        "bad-bundle",
        f"this is no bundle that envbuild can read: {reason}",
        where=str(where),
        hint="copy the file again from where `envbuild bundle` wrote it, or write the bundle anew",
        exit=Exit.VERIFY,
    )
