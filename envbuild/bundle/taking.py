"""What came: the bundle's files from several folders, and this machine's files that the bundle counts on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from envbuild.bundle.far import no_such_folder, walk
from envbuild.bundle.model import INDEX, FarFile, Index, Piece, read_index
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import CHUNK, Sha256, of_file
from envbuild.oci.disk import guarded, new_file, publish
from envbuild.progress import Progress
from envbuild.store import Store

_SHOWN = 5


def one_index(folders: Sequence[Path]) -> Index:
    """The index that lies in the folders.

    Raises:
        EnvbuildError: exit 2 where there is none; exit 5 where they hold several.
    """
    for folder in folders:
        if not folder.is_dir():
            raise EnvbuildError(
                "no-bundle",
                f"{folder} is no folder",
                where=str(folder),
                hint="name the folder that `envbuild bundle` wrote",
                exit=Exit.USAGE,
            )
    holders = [folder for folder in folders if (folder / INDEX).exists()] or list(folders[:1])
    indexes = [read_index(folder) for folder in holders]
    for folder, index in zip(holders, indexes, strict=True):
        if index != indexes[0]:
            raise EnvbuildError(
                "several-bundles",
                f"{holders[0]} and {folder} hold different bundles: of {indexes[0].manifest.digest} and of "
                f"{index.manifest.digest}, {len(indexes[0].pieces)} and {len(index.pieces)} pieces",
                hint="name folders of one bundle only",
                exit=Exit.VERIFY,
            )
    return indexes[0]


def take_pieces(
    index: Index, folders: Sequence[Path], store: Store, *, keep: bool, progress: Progress
) -> tuple[dict[str, Path], list[Piece]]:
    """Look for every file of the bundle and prove it.

    Args:
        index: what there should be.
        folders: where to look, after the store.
        store: holds pieces of earlier runs.
        keep: copy what is good into the store, so that the folders may go.
        progress: one task, in bytes.

    Returns:
        Path by sha256 of what is here, and what is missing.

    Raises:
        EnvbuildError: exit 5 when a file is damaged and no other folder has a good one.
    """
    found: dict[str, Path] = {}
    missing, damaged = [], []
    with progress.task("check pieces", total=index.size) as task:
        for piece in (index.plan, *index.pieces):
            kept = _kept(store, piece)
            places = [kept] if kept.exists() else []
            places += [folder / piece.file for folder in folders if (folder / piece.file).exists()]
            good = next((path for path in places if _is(path, piece)), None)
            task.advance(piece.size)
            if good is not None:
                found[piece.sha256] = _keep(good, kept, store) if keep and good != kept else good
            elif places:
                damaged.append(places[-1])
            else:
                missing.append(piece)
    if damaged:
        raise EnvbuildError(
            "piece-damaged",
            f"not what the bundle's index says: {', '.join(str(path) for path in damaged[:_SHOWN])}",
            where=str(damaged[0]),
            hint="copy it again from where `envbuild bundle` wrote it; what is good was "
            + ("kept" if keep else "not touched"),
            exit=Exit.VERIFY,
        )
    return found, missing


def _is(path: Path, piece: Piece) -> bool:
    with guarded(path):
        status = path.stat()
        whole = stat.S_ISREG(status.st_mode) and status.st_size == piece.size
        return whole and of_file(path) == f"sha256:{piece.sha256}"


def _kept(store: Store, piece: Piece) -> Path:
    return store.partial / f"{Sha256(piece.sha256)}.piece"


def _keep(path: Path, kept: Path, store: Store) -> Path:
    """A copy of the piece in the store."""
    with guarded(store.root):
        lock = new_file(store.root / "tmp")
        finished = False
        try:
            with path.open("rb") as source, open(lock.handle, "wb", closefd=False) as target:
                while data := source.read(CHUNK):
                    target.write(data)
            os.fsync(lock.handle)
            publish(lock.path, kept)
            finished = True
        finally:
            lock.release(remove=not finished)
    return kept


def forget_pieces(index: Index, store: Store) -> None:
    """Remove the pieces that the store kept."""
    for piece in (index.plan, *index.pieces):
        with guarded(store.partial):
            _kept(store, piece).unlink(missing_ok=True)


def locate(
    wanted: Mapping[int, FarFile], have: Sequence[Path], *, jobs: int, progress: Progress
) -> dict[int, Path]:
    """Where each far file is here, proven by its hash: at the path that the bundle names, else anywhere.

    Raises:
        EnvbuildError: exit 2 when a folder is not there; exit 5 with the files that are missing or different.
    """
    for folder in have:
        if not folder.is_dir():
            raise no_such_folder(folder)
    if not wanted:
        return {}
    with (
        progress.task("check far files", total=sum(file.size for file in wanted.values())) as task,
        ThreadPoolExecutor(max_workers=jobs) as pool,
    ):

        def named(file: FarFile) -> Path | None:
            places = [folder / file.path for folder in have]
            found = next((path for path in places if _holds(path, file)), None)
            task.advance(file.size)
            return found

        found = dict(zip(wanted, pool.map(named, wanted.values()), strict=True))
    lost = {n: wanted[n] for n, path in found.items() if path is None}
    if lost:
        found.update(_anywhere(lost, have))
    absent = [wanted[n] for n, path in found.items() if path is None]
    if absent:
        raise _far_differs(absent, have)
    return {n: path for n, path in found.items() if path is not None}


def _holds(path: Path, file: FarFile) -> bool:
    try:
        return path.stat().st_size == file.size and of_file(path) == f"sha256:{file.sha256}"
    except OSError:
        return False


def _anywhere(lost: Mapping[int, FarFile], have: Sequence[Path]) -> Iterator[tuple[int, Path]]:
    """Files with the right content under other names."""
    sizes = {file.size for file in lost.values()}
    by_hash: dict[str, Path] = {}
    for folder in have:
        for name, size in walk(folder):
            if size in sizes:
                by_hash.setdefault(of_file(folder / name), folder / name)
    for n, file in lost.items():
        path = by_hash.get(f"sha256:{file.sha256}")
        if path is not None:
            yield n, path


def _far_differs(absent: Sequence[FarFile], have: Sequence[Path]) -> EnvbuildError:
    told = []
    for file in absent[:_SHOWN]:
        there = next((folder / file.path for folder in have if (folder / file.path).is_file()), None)
        what = "is not there" if there is None else f"is another file here ({of_file(there)})"
        told.append(f"{file.path} (sha256:{file.sha256}, {file.size} bytes) {what}")
    more = f"\nand {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
    return EnvbuildError(
        "far-file-differs",
        f"{len(absent)} files that the bundle counts on are not under "
        f"{', '.join(map(str, have)) or 'any --have folder'}:\n" + "\n".join(told) + more,
        hint="name the folder that has them with --have; or write an inventory of what is here "
        "(`envbuild inventory DIR --output FILE`) and make the bundle anew with `--have FILE`",
        exit=Exit.VERIFY,
    )
