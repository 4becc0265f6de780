"""The suite's own hash: which questions were asked, byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).resolve().parent


KINDS = frozenset({".py", ".json", ".toml"})
"""What the suite consists of: code, and data files with their sources. Byte code is no part of it."""


def sources(folder: Path = HERE) -> list[Path]:
    """The suite's files below ``folder``, in the order of their relative paths."""
    found = [path for path in folder.rglob("*") if path.suffix in KINDS]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def fingerprint(folder: Path = HERE) -> str:
    """``sha256:`` over the lines ``<sha256 of the file>  <relative path>`` of every source, as sha256sum prints."""
    listing = hashlib.sha256()
    for path in sources(folder):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        listing.update(f"{digest}  {path.relative_to(folder).as_posix()}\n".encode())
    return "sha256:" + listing.hexdigest()
