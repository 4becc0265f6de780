"""Small Debian packages, made byte by byte."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Mapping

import zstandard

COMPRESSIONS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
}


def tar_of(files: Mapping[str, bytes | str | None]) -> bytes:
    """A tar: bytes are files, text a symbolic link's target, None a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return stream.getvalue()


def deb(control: str, files: Mapping[str, bytes | str | None], compression: str = ".xz") -> bytes:
    """A package with a control file and files."""
    pack = COMPRESSIONS[compression]
    members = {
        "debian-binary": b"2.0\n",
        f"control.tar{compression}": pack(tar_of({"control": control.encode()})),
        f"data.tar{compression}": pack(tar_of(files)),
    }
    out = b"!<arch>\n"
    for name, data in members.items():
        out += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
            + data
            + b"\n" * (len(data) % 2)
        )
    return out
