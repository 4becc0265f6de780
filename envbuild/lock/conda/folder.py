"""A folder as a channel: py-rattler reads ``repodata.json`` there and nothing compressed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import zstandard

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.conda.channels import SUBDIRS
from envbuild.oci.disk import unless_full

_LIMIT = 2 << 30
_PIECE = 4 << 10
"""Bytes that are unpacked at once: they can give some 30,000 times as many."""


def readable(place: str, cache: Path) -> str:
    """The address of a channel that py-rattler can read.

    Args:
        place: where the channel is; anything but a folder comes back as it is.
        cache: the folder where ``repodata.json.zst`` of a folder is unpacked, once for each content.

    Raises:
        EnvbuildError: exit 5, a file that is not zstd; exit 2, the cache cannot be written.
    """
    if not place.startswith("file://"):
        return place
    folder = Path(url2pathname(urlsplit(place).path))
    packed = {subdir: folder / subdir / "repodata.json.zst" for subdir in SUBDIRS}
    if all((folder / subdir / "repodata.json").is_file() for subdir in SUBDIRS):
        return place
    data = {subdir: _content(folder / subdir, path) for subdir, path in packed.items()}
    key = hashlib.sha256(b"".join(hashlib.sha256(data[subdir]).digest() for subdir in SUBDIRS)).hexdigest()
    target = cache / "folders" / key
    for subdir in SUBDIRS:
        _write(target / subdir / "repodata.json", data[subdir])
    return f"{target.absolute().as_uri()}/"


def _content(folder: Path, packed: Path) -> bytes:
    plain = folder / "repodata.json"
    try:
        if plain.is_file():
            return plain.read_bytes()
        return _unpacked(packed)
    except (zstandard.ZstdError, ValueError) as error:
        raise EnvbuildError(
            "channel-wrong", f"{packed} is not zstd, or is cut off: {error}", exit=Exit.VERIFY, where=str(packed),
            hint="The folder is damaged: copy it again, or name another with --channel NAME=URL|DIR.",
        ) from None  # fmt: skip


def _unpacked(packed: Path) -> bytes:
    """The content, piece by piece: what the frame says of its size is not believed.

    Raises:
        ValueError: it is cut off, or larger than any channel's.
    """
    found, size = [], 0
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    with packed.open("rb") as stream:
        while not unpacker.eof and (data := stream.read(_PIECE)):
            found.append(unpacker.decompress(data))
            size += len(found[-1])
            if size > _LIMIT:
                raise ValueError(f"it has more than {_LIMIT:,} bytes")
    if not unpacker.eof:
        raise ValueError("it ends too early")
    return b"".join(found)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; what is there is of the same content."""
    if path.is_file():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".repodata-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).replace(path)
    except OSError as error:
        other = EnvbuildError(
            "cannot-write", f"{path} cannot be written: {error.strerror}", exit=Exit.USAGE,
            hint="Check the store's disk and mode, or name another with --store DIR.",
        )  # fmt: skip
        raise unless_full(error, path, other) from None
