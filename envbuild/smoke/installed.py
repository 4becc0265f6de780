"""What is installed in this Python: distributions, their files, their hashes."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

CHUNK = 1 << 22
UNHASHED = re.compile(r"(\.pyc|\.dist-info/RECORD(\.jws|\.p7s)?)$")
"""Files that RECORD may list without a hash (packaging specification, "Recording installed projects")."""


def canonical(name: str) -> str:
    """A package name as the lock spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def by_name() -> dict[str, list[Distribution]]:
    """Every distribution on ``sys.path``, by canonical name, in the order in which Python would find them."""
    found: dict[str, list[Distribution]] = {}
    folders = dict.fromkeys(str(Path(folder).resolve()) for folder in sys.path)
    for distribution in distributions(path=list(folders)):
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(canonical(name), []).append(distribution)
    return found


def files_of(distribution: Distribution) -> dict[str, Path]:
    """The files that RECORD lists: name there to absolute path."""
    return {file.as_posix(): Path(str(distribution.locate_file(file))) for file in distribution.files or []}


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The outcome of hashing: ``problems`` name package, file, expected and seen; ``size`` is in bytes."""

    files: int
    size: int
    problems: tuple[str, ...]


def audit(packages: list[Distribution], *, threads: int) -> Audit:
    """Hash every file that RECORD lists with a hash, in ``threads`` threads, and compare."""
    work: list[tuple[str, str, Path, str | None, str | None]] = []
    problems: list[str] = []
    for package in packages:
        name = canonical(package.metadata["Name"])
        if not package.files:
            problems.append(f"{name}: it has no RECORD, or an empty one")
        for file in package.files or []:
            path, hashed = Path(str(package.locate_file(file))), file.hash
            if hashed is not None:
                work.append((name, file.as_posix(), path, hashed.mode, hashed.value))
            elif not UNHASHED.search(file.as_posix()):
                problems.append(f"{name}: RECORD has no hash of {file.as_posix()}")
    with ThreadPoolExecutor(max_workers=threads) as pool:
        answers = list(pool.map(lambda item: _compare(*item), work))
    problems += [problem for _, problem in answers if problem]
    return Audit(files=len(work), size=sum(size for size, _ in answers), problems=tuple(problems))


def _compare(
    package: str, name: str, path: Path, mode: str | None, expected: str | None
) -> tuple[int, str | None]:
    if mode != "sha256" or expected is None:
        return 0, f"{package}: {name} is recorded with {mode}, not sha256"
    hasher = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                hasher.update(chunk)
                size += len(chunk)
    except OSError as error:
        return 0, f"{package}: {name}: {error.strerror}"
    seen = base64.urlsafe_b64encode(hasher.digest()).rstrip(b"=").decode()
    if seen != expected.rstrip("="):
        return size, f"{package}: {name} is sha256 {seen}, RECORD says {expected}"
    return size, None
