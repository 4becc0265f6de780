"""Digests (OCI image spec, descriptor.md, "Digests"). Only sha256 is written or accepted."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
CHUNK = 1 << 20


def is_digest(text: str) -> bool:
    """Whether ``text`` is a well-formed sha256 digest (``sha256:`` and 64 lower-case hex digits)."""
    return _DIGEST.fullmatch(text) is not None


def of_bytes(data: bytes) -> str:
    """The digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """The digest of a file's content, read in constant memory."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            hasher.update(chunk)
    return "sha256:" + hasher.hexdigest()


def canonical_json(value: object) -> bytes:
    """The one JSON spelling that envbuild hashes: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
