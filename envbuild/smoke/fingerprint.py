"""The suite's own hash: which questions were asked, byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).resolve().parent


def sources(folder: Path = HERE) -> list[Path]:
    """The suite's files below ``folder``, in the order of their relative paths (byte code is not among them)."""
    return sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix())


def fingerprint(folder: Path = HERE) -> str:
    """``sha256:`` over the lines ``<sha256 of the file>  <relative path>`` of every source, as sha256sum prints."""
    listing = hashlib.sha256()
    for path in sources(folder):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        listing.update(f"{digest}  {path.relative_to(folder).as_posix()}\n".encode())
    return "sha256:" + listing.hexdigest()
