"""The bundle that an earlier run left in the same folder: its layers are not compressed again."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from envbuild.bundle.draft import Draft, Part, PatchDraft
from envbuild.bundle.far import Far
from envbuild.bundle.model import (
    FAR,
    INDEX,
    KIND,
    LITERAL,
    PLAN,
    RECIPES,
    LayerPlan,
    Plan,
    read_index,
    read_plan,
)
from envbuild.bundle.pieces import PieceReader
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import of_file
from envbuild.oci.disk import guarded

_ASIDE = ".earlier"
_PIECE = re.compile(r"piece-\d{3,}")
_START = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A whole bundle that was made of the same inputs."""

    plan: Plan
    reader: PieceReader

    def draft(self, diff_id: str, far: Far, scratch: Path) -> Draft | None:
        """A layer as it was packed then; None where it was not."""
        layer = next((item for item in self.plan.layers if item.diff_id == diff_id), None)
        if layer is None:
            return None
        draft = Draft(diff_id=diff_id, size=layer.size)
        if layer.literal is not None:
            draft.literal, draft.literal_size = scratch.with_suffix(".zst"), layer.literal.length
            self._extract(layer.literal.start, layer.literal.length, draft.literal)
        draft.parts = [self._part(layer, number, far, scratch) for number in range(len(layer.parts))]
        return draft

    def _part(self, layer: LayerPlan, number: int, far: Far, scratch: Path) -> Part:
        kind, n = layer.parts[number]
        if kind == LITERAL:
            return n
        if kind == FAR:
            return far.by_hash[self.plan.far[n].sha256]
        patch = self.plan.patches[n]
        file = scratch.with_suffix(f".{number}.patch")
        self._extract(patch.start, sum(frame.length for frame in patch.frames), file)
        known = far.by_hash[self.plan.far[patch.far].sha256]
        return PatchDraft(known=known, size=patch.size, frames=list(patch.frames), file=file)

    def _extract(self, start: int, length: int, path: Path) -> None:
        with guarded(path), path.open("wb") as out:
            for data in self.reader.read(start, length):
                out.write(data)


def put_aside(output: Path, inputs: str) -> Earlier | None:
    """Empty ``output`` for a new bundle; the one that lies there is kept aside if it was made of the same inputs.

    Raises:
        EnvbuildError: exit 2 when the folder holds other things than a bundle.
    """
    _refuse_strangers(output)
    aside = output / _ASIDE
    if (output / INDEX).exists():
        shutil.rmtree(aside, ignore_errors=True)
        with guarded(output):
            aside.mkdir()
            for path in [path for path in output.iterdir() if path != aside]:
                path.rename(aside / path.name)
    with guarded(output):
        for path in output.iterdir():
            if path == aside:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    found = _read(aside, inputs) if aside.is_dir() else None
    if found is None:
        forget(output)
    return found


def forget(output: Path) -> None:
    """Remove what was put aside."""
    shutil.rmtree(output / _ASIDE, ignore_errors=True)


def _refuse_strangers(output: Path) -> None:
    """A bundle's files have the names that packing gives them, and its folders lie beside such a file only."""
    with guarded(output):
        found = sorted(output.iterdir())
        files = {path.name for path in found if path.is_file() and not path.is_symlink() and _is_ours(path)}
        folders = {path.name for path in found if path.is_dir() and not path.is_symlink()}
        begun = bool(files) or (output / _ASIDE / INDEX).is_file()
    ours = files | ({RECIPES, _ASIDE} & folders if begun else set())
    strangers = [path.name for path in found if path.name not in ours]
    if strangers:
        raise EnvbuildError(
            "output-not-empty",
            f"{output} holds other things than a bundle: {strangers[0]}",
            where=str(output),
            hint="name an empty or a new folder with --output",
            exit=Exit.USAGE,
        )


def _is_ours(path: Path) -> bool:
    """Whether a file is one of a bundle: an index that says so (or that was not finished), a plan, a piece."""
    if path.name == INDEX:
        with path.open("rb") as stream:
            start = stream.read(_START)
        return not start or KIND.encode() in start
    return path.name == PLAN or _PIECE.fullmatch(path.name) is not None


def _read(folder: Path, inputs: str) -> Earlier | None:
    """The bundle in ``folder``, if it is whole and of these inputs; anything else is not worth an error."""
    try:
        index = read_index(folder)
        files = (index.plan, *index.pieces)
        whole = all(of_file(folder / piece.file) == f"sha256:{piece.sha256}" for piece in files)
        if index.inputs != inputs or not whole:
            return None
        plan = read_plan(folder / PLAN, index)
    except (EnvbuildError, OSError):
        return None
    pieces, at = [], 0
    for piece in index.pieces:
        pieces.append((folder / piece.file, at, piece.size))
        at += piece.size
    return Earlier(plan=plan, reader=PieceReader(pieces=tuple(pieces)))
