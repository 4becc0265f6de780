"""Debian packages (deb(5)): an ar archive of a control tar and a data tar. And which of them dpkg needs to run."""

from __future__ import annotations

import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.tar_reader import entries

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_FIELD = re.compile(r"^([!-9;-~]+):[ \t]*(.*)$")
_CONTROL_LIMIT = 16 << 20
DEB_FAULTS = (
    *(ValueError, EOFError, OSError),
    *(tarfile.TarError, zlib.error, lzma.LZMAError, zstandard.ZstdError),
)
"""What reading a package raises where the file is damaged; an ``OSError`` with a number is this machine's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """A package file and the fields of its control file, first lines only (``Package``, ``Pre-Depends``, …).

    ``label`` is its file name, for messages.
    """

    path: Path
    label: str
    fields: Mapping[str, str]

    @property
    def name(self) -> str:
        """The package's name."""
        return self.fields["Package"]


def read_deb(path: Path, label: str) -> Deb:
    """Read a package's control file.

    Args:
        path: the file, under whatever name.
        label: the package's file name, for messages.

    Raises:
        EnvbuildError: exit 5; this is no Debian package, or it is damaged.
    """
    try:
        with _member(path, "control.tar") as stream:
            for entry, content in entries(stream):
                if entry.name.removeprefix("./") == "control" and content and entry.size < _CONTROL_LIMIT:
                    fields = _fields(content.read().decode("utf-8", "replace"))
                    if "Package" in fields:
                        return Deb(path=path, label=label, fields=fields)
        raise ValueError("it has no control file that names a package")
    except DEB_FAULTS as error:
        raise damaged(label, str(error)) from error


def damaged(label: str, reason: str) -> EnvbuildError:
    """A package file that cannot be used."""
    return EnvbuildError(
        "deb-damaged",
        f"{label} is not a sound Debian package: {reason}",
        hint="remove it from the store and fetch it again; if it stays so, its source is broken",
        exit=Exit.VERIFY,
        where=label,
    )


@contextmanager
def data_tar(path: Path) -> Iterator[IO[bytes]]:
    """The package's files as a plain tar stream."""
    with _member(path, "data.tar") as stream:
        yield stream


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The decompressed member ``name.*`` of a package.

    Raises:
        ValueError: no such member, or the file is no ar archive.
    """
    with path.open("rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise ValueError("it is not an ar archive")
        while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
            member = header[:16].decode("ascii", "replace").rstrip(" /")
            digits = header[48:58].strip()
            if header[58:] != b"`\n" or not digits.isdigit():
                raise ValueError("a header of its ar archive is damaged")
            size, start = int(digits), file.tell()
            if member.partition(".")[0] + ".tar" == name and member.startswith(name):
                yield _decompressed(io.BufferedReader(_Part(file, start, size), 1 << 18), member)
                return
            file.seek(start + size + size % 2)
    raise ValueError(f"it has no {name}")


class _Part(io.RawIOBase):
    """``size`` bytes of a file from ``start`` on."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self._file = file
        self._left = size
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # what io calls it with
        data = self._file.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)


def _decompressed(stream: io.BufferedReader, member: str) -> Any:
    suffix = member.rpartition(".tar")[2]
    if suffix == ".xz":
        return lzma.open(stream, "rb")
    if suffix == ".gz":
        return gzip.open(stream, "rb")
    if suffix == ".zst":
        return zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
    if suffix == "":
        return stream
    raise ValueError(f"its member {member} has a compression that envbuild does not know")


def _fields(text: str) -> dict[str, str]:
    """The first paragraph of a control file (Debian Policy, 5.1); continuation lines are joined."""
    fields: dict[str, list[str]] = {}
    last = ""
    for line in text.splitlines():
        if not line.strip():
            break
        if line[0] in " \t":
            if last:
                fields[last].append(line.strip())
        elif match := _FIELD.match(line):
            last = match[1]
            fields[last] = [match[2].strip()]
    return {name: " ".join(lines) for name, lines in fields.items()}


def essential(debs: Sequence[Deb]) -> list[Deb]:
    """The essential packages among ``debs`` and what they depend on: enough to run dpkg and maintainer scripts."""
    by_name: dict[str, Deb] = {}
    for deb in debs:
        by_name[deb.name] = deb
    for deb in debs:
        for provided in _names(deb.fields.get("Provides", "")):
            for name in provided:
                by_name.setdefault(name, deb)
    found: dict[str, Deb] = {}
    pending = [deb for deb in debs if deb.fields.get("Essential") == "yes"]
    while pending:
        deb = pending.pop()
        if deb.name in found:
            continue
        found[deb.name] = deb
        for key in ("Pre-Depends", "Depends"):
            for alternatives in _names(deb.fields.get(key, "")):
                pending.extend(by_name[name] for name in alternatives if name in by_name)
    return [found[name] for name in sorted(found)]


def _names(relation: str) -> Iterable[list[str]]:
    """Package names of a dependency field: a list of alternatives for each comma (Debian Policy, 7.1)."""
    for group in relation.split(","):
        names = [re.split(r"[\s(:\[<]", part.strip(), maxsplit=1)[0] for part in group.split("|")]
        if any(names):
            yield [name for name in names if name]
