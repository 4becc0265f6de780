"""Two environments on this machine, file by file: what differs, and which of it installing must make different."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import Progress

What = Literal["content", "mode", "kind", "only in A", "only in B"]

_LARGE = 1 << 26
"""A file above this many bytes is compared as it is: none that is this large holds its environment's path."""
_CHUNK = 1 << 20
_OWN_TO_THE_MACHINE = frozenset(
    (
        "extracted_package_dir",
        "package_tarball_full_path",
        "link",
        "url",
        "channel",
        "requested_spec",
        "requested_specs",
    )
)
"""Members of a conda-meta record about where the package came from on this machine, and what the person asked for."""
_PER_INSTALLATION = ("sha256_in_prefix", "prefix_placeholder", "size_in_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDifference:
    """One path below both environments.

    ``hashes`` are the sha256 of the two contents, where ``what`` is ``content``. ``expected`` says why installing the
    same packages makes it differ; ``None`` where it must not.
    """

    path: str
    what: What
    hashes: tuple[str | None, str | None] = (None, None)
    expected: str | None = None


def compare_folders(first: Path, second: Path, progress: Progress) -> tuple[FileDifference, ...]:
    """Every path that is not the same below two environments, in order.

    What a file says of its own environment's path is no difference: text and binaries are compared with the path taken
    out, as conda puts it in. Times and owners do not count; whether a file may be executed does.

    Raises:
        EnvbuildError: exit 2: a file cannot be read.
    """
    try:
        with progress.task("List files", unit="files"):
            mine, theirs = _tree(first), _tree(second)
        found: list[FileDifference] = []
        both = sorted(mine.keys() & theirs.keys())
        with progress.task("Compare files", total=len(both), unit="files") as task:
            for path in both:
                difference = _file(path, first, second, mine[path], theirs[path])
                if difference is not None:
                    found.append(difference)
                task.advance(1)
    except OSError as error:
        raise EnvbuildError(
            "environment-unreadable",
            f"a file of the environment cannot be read: {error.strerror}",
            where=str(error.filename),
            hint="run the command as the user that the environment belongs to",
            exit=Exit.USAGE,
        ) from error
    differing = {item.path for item in found}
    found += [_only(path, "only in A", first) for path in sorted(mine.keys() - theirs.keys())]
    found += [_only(path, "only in B", second) for path in sorted(theirs.keys() - mine.keys())]
    differing |= {item.path for item in found}
    return tuple(sorted((_byte_code(item, differing) for item in found), key=lambda item: item.path))


def _tree(folder: Path) -> dict[str, os.stat_result]:
    """Files and links below a folder by their relative path. Links are not followed."""
    found: dict[str, os.stat_result] = {}
    waiting = [str(folder)]
    start = len(str(folder)) + 1
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    found[entry.path[start:]] = entry.stat(follow_symlinks=False)
    return found


def _file(
    path: str, first: Path, second: Path, mine: os.stat_result, theirs: os.stat_result
) -> FileDifference | None:
    if stat.S_IFMT(mine.st_mode) != stat.S_IFMT(theirs.st_mode):
        return FileDifference(path=path, what="kind")
    if stat.S_ISLNK(mine.st_mode):
        left, right = str((first / path).readlink()), str((second / path).readlink())
        same = left.replace(str(first), "") == right.replace(str(second), "")
        return None if same else FileDifference(path=path, what="content", expected=_expected(path))
    if not stat.S_ISREG(mine.st_mode) or (mine.st_ino, mine.st_dev) == (theirs.st_ino, theirs.st_dev):
        return None  # two names of one file: conda links from its cache
    hashes = _hash(first / path), _hash(second / path)
    size = max(mine.st_size, theirs.st_size)
    if hashes[0] != hashes[1] and not _same_but_for_the_place(path, first, second, size):
        return FileDifference(path=path, what="content", hashes=hashes, expected=_expected(path))
    return FileDifference(path=path, what="mode") if (mine.st_mode ^ theirs.st_mode) & 0o111 else None


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while data := stream.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _same_but_for_the_place(path: str, first: Path, second: Path, size: int) -> bool:
    """Whether two files say the same when their environments' paths are taken out."""
    if size > _LARGE:
        return False
    left, right = (first / path).read_bytes(), (second / path).read_bytes()
    if path.startswith("conda-meta/") and path.endswith(".json"):
        return _record(left) == _record(right)
    if path.endswith(".dist-info/RECORD"):
        return _rows(left) == _rows(right)
    return _placeless(left, first) == _placeless(right, second)


def _placeless(data: bytes, prefix: Path) -> bytes:
    """Content without its environment's path.

    In a binary a path ends with NUL and is padded with NULs to the length that the package's placeholder had, so that
    nothing behind it moves (conda's documentation, "Making packages relocatable").
    """
    place = os.fsencode(prefix)
    if place not in data:
        return data
    if b"\0" not in data:
        return data.replace(place, b"<prefix>")
    strings = re.compile(re.escape(place) + rb"[^\0]*\0+")
    return strings.sub(lambda match: _moved(match.group(), place), data)


def _moved(string: bytes, place: bytes) -> bytes:
    """A padded string with the path taken out, and its whole length instead of its padding."""
    return b"<prefix:%d>" % len(string) + string.rstrip(b"\0").replace(place, b"")


def _record(data: bytes) -> object:
    """A conda-meta record without what belongs to one machine and one place."""
    try:
        value = json.loads(data)
    except ValueError:
        return data
    if not isinstance(value, dict):
        return value
    kept = {key: member for key, member in value.items() if key not in _OWN_TO_THE_MACHINE}
    paths = kept.get("paths_data")
    if isinstance(paths, Mapping) and isinstance(paths.get("paths"), list):
        kept["paths_data"] = [_without(item, _PER_INSTALLATION) for item in paths["paths"]]
    return kept


def _without(value: object, keys: tuple[str, ...]) -> object:
    if not isinstance(value, dict):
        return value
    placed = value.get("prefix_placeholder") is not None or str(value.get("_path", "")).endswith(".pyc")
    return {key: member for key, member in value.items() if not (placed and key in keys)}


def _rows(data: bytes) -> object:
    """RECORD's rows without the hashes of scripts and byte code, which hold the environment's path."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode())))
    except (UnicodeDecodeError, csv.Error):
        return data
    return sorted((row[0], *(() if _placed(row[0]) else row[1:])) for row in rows if row)


def _placed(name: str) -> bool:
    return name.endswith((".pyc", "/direct_url.json")) or (name.startswith("../") and "/bin/" in name)


def _expected(path: str) -> str | None:
    """Why the content of this path differs between two installations of the same packages."""
    name = path.rpartition("/")[2]
    if path == "conda-meta/history":
        return "conda's history: it has the date"
    if name == "direct_url.json" and ".dist-info/" in path:
        return "where pip found the file on each machine"
    return None


def _only(path: str, what: What, folder: Path) -> FileDifference:
    hashes = (
        (_hash(folder / path), None)
        if (folder / path).is_file() and not (folder / path).is_symlink()
        else (None, None)
    )
    return FileDifference(path=path, what=what, hashes=hashes if what == "only in A" else hashes[::-1])


def _byte_code(item: FileDifference, differing: set[str]) -> FileDifference:
    """Byte code holds its source's time and place: it is expected to differ where the source does not."""
    if not item.path.endswith(".pyc") or item.expected is not None or source_of(item.path) in differing:
        return item
    why = "byte code of a source that agrees; it holds the source's date and place"
    return FileDifference(path=item.path, what=item.what, hashes=item.hashes, expected=why)


def source_of(path: str) -> str:
    """The source that byte code is of: ``a/__pycache__/b.cpython-311.pyc`` is of ``a/b.py`` (PEP 3147)."""
    folder, _, name = path.rpartition("/")
    parent = folder.removesuffix("__pycache__").rstrip("/")
    return f"{parent}/{name.split('.')[0]}.py".lstrip("/") if folder.endswith("__pycache__") else path[:-1]


def unexpected(differences: tuple[FileDifference, ...]) -> Iterator[FileDifference]:
    """Those that installing the same packages must not make."""
    return (item for item in differences if item.expected is None)
