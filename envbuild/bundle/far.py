"""What the far machine has: folders that are copies of its own, or an inventory of hashes that was made there."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from envbuild.bundle.model import FarFile, check_path
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import canonical_json, of_bytes, of_file, read_regular
from envbuild.oci.document import bounded
from envbuild.progress import Progress

_GZIP = b"\x1f\x8b"
_INVENTORY_LIMIT = 256 << 20
# What differs between the names of one library built twice: the interpreter's tag, and the hash that
# auditwheel puts into the names of vendored libraries.
_VARIES = re.compile(r"\.cpython-\d+|-[0-9a-f]{8}(?=\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One far file, and where its content can be read here (None when only its hash is known)."""

    file: FarFile
    local: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Far:
    """Far files by content and by name."""

    by_hash: dict[str, Known]
    by_name: dict[str, list[Known]]

    def like(self, path: str) -> Known | None:
        """The far file that a file at ``path`` most likely is another build of: same name, most alike folders."""
        found = self.by_name.get(plain_name(path), [])
        return max(found, key=lambda known: _common_tail(path, known.file.path), default=None)

    @property
    def digest(self) -> str:
        """Changes with what there is to refer to or to patch."""
        names = sorted((known.file.path, known.file.sha256) for known in self.by_hash.values())
        copies = sorted((k.file.path, k.file.sha256) for known in self.by_name.values() for k in known)
        return of_bytes(canonical_json([names, copies]))


def plain_name(path: str) -> str:
    """A file's name without what differs from build to build."""
    return _VARIES.sub("", PurePosixPath(path).name)


def _common_tail(left: str, right: str) -> int:
    count = 0
    for a, b in zip(reversed(left.split("/")[:-1]), reversed(right.split("/")[:-1]), strict=False):
        if a != b:
            break
        count += 1
    return count


def read_far(places: Sequence[Path], *, jobs: int, progress: Progress) -> Far:
    """Hash every file of the folders, and read the inventories.

    Args:
        places: folders (copies of what the far machine has) and inventory files.
        jobs: threads.
        progress: one task, in bytes.

    Raises:
        EnvbuildError: exit 2 when one is not there, exit 3 when a file is no inventory.
    """
    by_hash: dict[str, Known] = {}
    by_name: dict[str, list[Known]] = {}
    for known in _all(places, jobs, progress):
        other = by_hash.setdefault(known.file.sha256, known)
        if other.local is None and known.local is not None:
            by_hash[known.file.sha256] = known
        if known.local is not None:
            by_name.setdefault(plain_name(known.file.path), []).append(known)
    return Far(by_hash=by_hash, by_name=by_name)


def _all(places: Sequence[Path], jobs: int, progress: Progress) -> Iterable[Known]:
    for place in places:
        if place.is_dir():
            yield from (
                Known(file=file, local=place / file.path)
                for file in scan(place, jobs=jobs, progress=progress)
            )
        elif place.is_file():
            yield from (Known(file=file, local=None) for file in read_inventory(place))
        else:
            raise no_such_folder(place)


def no_such_folder(place: Path) -> EnvbuildError:
    """The error for a ``--have`` that is not there."""
    return EnvbuildError(
        "no-such-folder",
        f"--have {place}: there is no such folder or file",
        where=str(place),
        hint="name a copy of what the far machine has (its site-packages), or an inventory that "
        "`envbuild inventory DIR` wrote there",
        exit=Exit.USAGE,
    )


def walk(folder: Path) -> list[tuple[str, int]]:
    """Every regular file below ``folder``: relative path and bytes, in order. Links are not followed.

    Names that are not UTF-8 are left out: no document can name them.
    """
    found = []
    pending = [folder]
    while pending:  # os.walk calls itself for each folder
        parent = pending.pop()
        below: list[tuple[Path, os.stat_result]] = []
        with suppress(OSError):  # a folder that cannot be listed has nothing to offer
            for path in sorted(parent.iterdir()):
                below.append((path, path.lstat()))
        for path, status in below:
            name = str(path.relative_to(folder))
            if stat.S_ISREG(status.st_mode) and _is_utf8(name):
                found.append((name, status.st_size))
        pending += [path for path, status in reversed(below) if stat.S_ISDIR(status.st_mode)]
    return found


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def scan(folder: Path, *, jobs: int, progress: Progress) -> list[FarFile]:
    """Every regular file below ``folder`` with its hash."""
    files = walk(folder)
    with progress.task(f"hash {folder}", total=sum(size for _, size in files)) as task:

        def hashed(item: tuple[str, int]) -> FarFile:
            digest = of_file(folder / item[0])
            task.advance(item[1])
            return FarFile(item[0], item[1], digest.removeprefix("sha256:"))

        with ThreadPoolExecutor(max_workers=jobs) as pool:
            return list(pool.map(hashed, files, chunksize=1))


def write_inventory(folder: Path, *, jobs: int, progress: Progress) -> tuple[bytes, int]:
    """An inventory of ``folder``, and how many files it names: JSON ``[[path, bytes, sha256], …]``, gzipped.

    Raises:
        EnvbuildError: exit 2 when the folder is not there.
    """
    if not folder.is_dir():
        raise no_such_folder(folder)
    files = scan(folder, jobs=jobs, progress=progress)
    text = json.dumps([[file.path, file.size, file.sha256] for file in files])
    return gzip.compress(text.encode(), mtime=0), len(files)


def read_inventory(path: Path) -> list[FarFile]:
    """The files that an inventory names.

    Raises:
        EnvbuildError: exit 3 when it is none.
    """
    try:
        data = read_regular(path, _INVENTORY_LIMIT)
        if data.startswith(_GZIP):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_INVENTORY_LIMIT + 1)
        if len(data) > _INVENTORY_LIMIT:
            raise ValueError(f"it has more than {_INVENTORY_LIMIT} bytes")
        with bounded():
            files = msgspec.json.decode(data, type=list[FarFile])
        for file in files:
            check_path(file.path)
        return files
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise EnvbuildError(
            "bad-inventory",
            f"this is no inventory: {error}",
            where=str(path),
            hint="write it on the far machine: envbuild inventory DIR --output FILE",
            exit=Exit.INPUT,
        ) from error
