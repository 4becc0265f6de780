"""What makes a layer eStargz, so that a reader can fetch single files of it: table of contents, landmark, footer.

The rules are those of eStargz (containerd/stargz-snapshotter, docs/estargz.md); docs/explanation/layers.md tells how
envbuild's layers follow them, and what they cost.
"""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime

from envbuild.layers.format import MTIME
from envbuild.layers.gzip import trailer

TOC = "stargz.index.json"
"""The tar's last member: what lies where in the blob ("TOC, TOCEntries and Footer")."""

LANDMARK = ".no.prefetch.landmark"
"""Tells a lazy reader that no file is wanted before it is asked for ("Prioritized Files and Landmark Files")."""

LANDMARK_CONTENT = b"\x0f"

TRACES = (LANDMARK, TOC)
"""What the format puts into a container's ``/`` where the engine unpacks whole layers; the topmost layer hides it."""

_MODTIME = datetime.fromtimestamp(MTIME, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
_TIMES = {"modtime": _MODTIME, "ModTime": _MODTIME}
"""The specification's spelling, and the one that podman 4 looks for; readers that ignore case see the same twice.
Without it podman's files are as old as the pull, and Python finds all byte code stale."""
_EXTRA = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff" + struct.pack("<H2sH", 26, b"SG", 22)
_EMPTY_BLOCK = b"\x01\x00\x00\xff\xff"


class TableOfContents:
    """Grows with the tar, one entry for each of its members, in their order.

    The bytes are compact JSON, a pure function of what was added.
    """

    def __init__(self) -> None:
        self._entries: list[str] = []

    def add_folder(self, path: str, *, mode: int) -> None:
        """A folder; ``path`` is below ``/`` and has no slash at either end."""
        self._add({"name": f"{path}/", "type": "dir"}, mode, {})

    def add_file(self, path: str, *, mode: int, size: int, sha256: str, offset: int | None) -> None:
        """A regular file.

        Args:
            path: below ``/``.
            mode: permission bits.
            size: in bytes.
            sha256: of the content, 64 hex digits.
            offset: where in the blob the gzip member of the content begins; ``None`` for an empty file, which has none.
        """
        digest = f"sha256:{sha256}"
        place = {} if offset is None else {"offset": offset}
        chunk = {} if offset is None else {"chunkDigest": digest}
        sizes = {"size": size} if size else {}
        self._add({"name": path, "type": "reg", **sizes}, mode, {**place, "digest": digest, **chunk})

    def _add(self, what: dict[str, object], mode: int, content: dict[str, object]) -> None:
        entry = {**what, **_TIMES, "mode": mode, "uid": 0, "gid": 0, **content}
        self._entries.append(json.dumps(entry, ensure_ascii=False, separators=(",", ":")))

    def content(self) -> bytes:
        """The JSON document."""
        return f'{{"version":1,"entries":[{",".join(self._entries)}]}}'.encode()


def footer(toc_offset: int) -> bytes:
    """The blob's last 51 bytes: an empty gzip member whose extra field tells where the table's member begins."""
    return _EXTRA + b"%016xSTARGZ" % toc_offset + _EMPTY_BLOCK + trailer(0, 0)
