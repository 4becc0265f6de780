"""Two environments on this machine, file by file: what differs, and which of it installing must make different."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from envbuild.difference import lister
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
_PER_INSTALLATION = ("sha256_in_prefix", "size_in_bytes")
_MADE = ("unix_python_entry_point", "pyc_file")
"""Kinds of paths in a conda-meta record that linking makes: what stands of their content is each place's own."""


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
    commands = _commands(first) & _commands(second)
    told = [_generated(item, differing, commands) for item in found]
    return tuple(sorted(told, key=lambda item: item.path))


def _commands(folder: Path) -> set[str]:
    """The commands that installers made from entry_points.txt."""
    points = folder.glob("lib/python3.*/site-packages/*.dist-info/entry_points.txt")
    return {name for path in points for name in lister.commands(lister.read_text(str(path)) or "")}


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
    same = mine.st_size == theirs.st_size and _same_bytes(first / path, second / path)
    size = max(mine.st_size, theirs.st_size)
    if not same and not _same_but_for_the_place(path, first, second, size):
        hashes = _hash(first / path), _hash(second / path)
        return FileDifference(path=path, what="content", hashes=hashes, expected=_expected(path))
    return FileDifference(path=path, what="mode") if (mine.st_mode ^ theirs.st_mode) & 0o111 else None


def _same_bytes(first: Path, second: Path) -> bool:
    """Whether two files of one size are equal; read once, and not hashed: an environment has gigabytes."""
    with first.open("rb") as left, second.open("rb") as right:
        while data := left.read(_CHUNK):
            if data != right.read(_CHUNK):
                return False
    return True


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
    if left[:2] == right[:2] == b"#!":
        left, right = lister.without_shebang(left), lister.without_shebang(right)
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
    except (ValueError, RecursionError):
        return data
    if not isinstance(value, dict):
        return value
    kept = {key: member for key, member in value.items() if key not in _OWN_TO_THE_MACHINE}
    paths = kept.get("paths_data")
    if isinstance(paths, Mapping) and isinstance(paths.get("paths"), list):
        kept["paths_data"] = [_path(item) for item in paths["paths"]]
    return kept


def _path(value: object) -> object:
    """One of a record's paths without the hash and size that it has in this place alone."""
    if not isinstance(value, dict):
        return value
    made = str(value.get("path_type")) in _MADE
    own = (
        (*_PER_INSTALLATION, "sha256")
        if made
        else _PER_INSTALLATION
        if value.get("prefix_placeholder")
        else ()
    )
    return {key: member for key, member in value.items() if key not in own}


def _rows(data: bytes) -> object:
    """RECORD's rows of the package's own files; of scripts the names alone, since they hold the environment's path."""
    try:
        rows = lister.rows(data.decode())
    except (UnicodeDecodeError, csv.Error):
        return data
    own = [(name, digest) for name, digest in rows if not _installers(name)]
    return sorted(
        (name, "" if name.startswith("../") and "/bin/" in name else digest) for name, digest in own
    )


def _installers(name: str) -> bool:
    """Whether a path below site-packages is one that installers write, each in its own way."""
    folder, _, base = name.rpartition("/")
    return base.endswith(".pyc") or (folder.endswith(".dist-info") and base in lister.INSTALLERS_OWN)


def _expected(path: str) -> str | None:
    """Why the content of this path differs between two installations of the same packages."""
    name = path.rpartition("/")[2]
    if path == "conda-meta/history":
        return "conda's history: it has the date"
    if ".dist-info/" in path and name in lister.INSTALLERS_OWN - {"RECORD"}:
        return "what the installer notes: its name, and where it found the file on each machine"
    return None


def _only(path: str, what: What, folder: Path) -> FileDifference:
    hashes = (
        (_hash(folder / path), None)
        if (folder / path).is_file() and not (folder / path).is_symlink()
        else (None, None)
    )
    return FileDifference(path=path, what=what, hashes=hashes if what == "only in A" else hashes[::-1])


def _generated(item: FileDifference, differing: set[str], commands: set[str]) -> FileDifference:
    """What installers make from something that agrees is expected to differ: byte code, and commands."""
    folder, _, name = item.path.rpartition("/")
    if item.path.endswith(".pyc") and source_of(item.path) not in differing:
        return replace(
            item, expected="byte code of a source that agrees; it holds the source's date and place"
        )
    if folder == "bin" and lister.launched(name, commands):
        return replace(item, expected="a command that each installer writes in its own way")
    if item.expected is None and item.what != "content":
        return replace(item, expected=_expected(item.path))
    return item


def source_of(path: str) -> str:
    """The source that byte code is of: ``a/__pycache__/b.cpython-311.pyc`` is of ``a/b.py`` (PEP 3147)."""
    folder, _, name = path.rpartition("/")
    parent = folder.removesuffix("__pycache__").rstrip("/")
    return f"{parent}/{name.split('.')[0]}.py".lstrip("/") if folder.endswith("__pycache__") else path[:-1]


def unexpected(differences: tuple[FileDifference, ...]) -> Iterator[FileDifference]:
    """Those that installing the same packages must not make."""
    return (item for item in differences if item.expected is None)
