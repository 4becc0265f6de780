"""Reading what the compiler is made of: files in .debs (deb(5)), wheels and source distributions."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import zstandard

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact
from envbuild.lock.python.files import ZIP_FAULTS
from envbuild.oci.tar_reader import Content, entries
from envbuild.oci.trees import too_long

MTIME = 1577836800
"""The time of every unpacked file (seconds): nvcc's line tables hold the times of the headers."""

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_CHUNK = 1 << 20
_OF_THE_FILE = {None, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
"""What the system says where an archive is at fault: an offset before its start, names that cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A regular file in an archive: its path there, and a way to read it now (not after the next member)."""

    name: str
    read: Callable[[], bytes]


def members(artifact: Artifact, path: Path) -> Iterator[Member]:
    """The regular files of a .deb or wheel, in the archive's order; links and folders are passed over.

    Raises:
        EnvbuildError: exit 5; the file is not what its kind says.
    """
    with _readable(artifact.basename):
        if artifact.kind == "deb":
            yield from _deb_members(artifact.basename, path)
        else:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        read = partial(archive.read, info)
                        yield Member(name=info.filename, read=partial(_read, artifact.basename, read))


def unpack_wheel(file: str, path: Path, site: Path, advance: Callable[[int], None]) -> None:
    """Unpack a wheel as far as importing and compiling against it needs: no scripts, no RECORD rewritten.

    Args:
        file: the wheel's file name, for messages.
        path: the wheel.
        site: the site-packages folder.
        advance: gets the uncompressed bytes that were written.

    Raises:
        EnvbuildError: exit 5; not a wheel, a wrong CRC, or a name that leads out of the folder.
    """
    with _readable(file), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _site_name(info.filename)
            if info.is_dir() or name is None:
                continue
            target = site / _inside(file, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("wb") as sink:
                while chunk := source.read(_CHUNK):
                    sink.write(chunk)
                    advance(len(chunk))
            os.utime(target, (MTIME, MTIME))


def unpack_sdist(file: str, path: Path, folder: Path) -> None:
    """Unpack a source distribution (.tar.gz, PEP 625) so that its ``setup.py`` lies directly in ``folder``.

    Raises:
        EnvbuildError: exit 5; not such an archive, or a member that leads out of the folder.
    """
    with _readable(file), gzip.open(path) as stream:
        for member, content in entries(stream):
            parts = PurePosixPath(_inside(file, member.name)).parts
            if len(parts) > 1:
                _extract(file, member, content, folder.joinpath(*parts[1:]))
    if not (folder / "setup.py").is_file():
        raise _refused(file, "it has no setup.py")


def _extract(file: str, member: tarfile.TarInfo, content: Content | None, target: Path) -> None:
    """Write one member: a folder or a file. ``tarfile``'s own filters need Python 3.11.4; Debian 12 has 3.11.2."""
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    if content is None:
        raise _refused(file, f"its member {member.name!r} is neither a file nor a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as sink:
        shutil.copyfileobj(content, sink, _CHUNK)
    target.chmod(0o755 if member.mode & 0o111 else 0o644)
    os.utime(target, (MTIME, MTIME))


def _site_name(name: str) -> str | None:
    """Where a wheel's member goes under site-packages (binary distribution format, ".data directory")."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return name
    scheme, _, rest = rest.partition("/")
    return rest if scheme in {"purelib", "platlib"} else None


def _inside(file: str, name: str) -> str:
    if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
        raise _refused(file, f"its member {name!r} leads out of the folder that it is unpacked to")
    if reason := too_long(name):
        raise _refused(file, f"its member {name[:200]!r} {reason}")
    return name


def _read(file: str, read: Callable[[], bytes]) -> bytes:
    """Read a member; that its content is damaged shows only now."""
    with _readable(file):
        return read()


def _deb_members(file: str, path: Path) -> Iterator[Member]:
    with _data_tar(path) as stream:
        for info, content in entries(stream):
            if content is not None:
                yield Member(name=info.name.removeprefix("./"), read=partial(_read, file, content.read))


@contextmanager
def _data_tar(path: Path) -> Iterator[io.BufferedIOBase | zstandard.ZstdDecompressionReader]:
    """The plain ``data.tar`` of a .deb, as a stream."""
    with path.open("rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise tarfile.ReadError("it is not a .deb")
        while header := file.read(_AR_HEADER):
            name = header[:16].decode("ascii", "replace").strip().rstrip("/")
            if header[58:] != b"`\n" or not header[48:58].strip().isdigit():
                raise tarfile.ReadError("a header of its ar archive is damaged")
            size = int(header[48:58])
            if name.startswith("data.tar"):
                data = io.BytesIO(file.read(size))
                with _decompressed(name, data) as stream:
                    yield stream
                return
            file.seek(size + size % 2, io.SEEK_CUR)
    raise tarfile.ReadError("it has no data.tar")


def _decompressed(name: str, data: io.BytesIO) -> io.BufferedIOBase | zstandard.ZstdDecompressionReader:
    if name.endswith(".xz"):
        return lzma.LZMAFile(data)
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().stream_reader(data)
    raise tarfile.ReadError(f"{name} is not compressed with xz or zstd")


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """Turn what the readers say into one error."""
    try:
        yield
    except EnvbuildError:
        raise
    except (tarfile.TarError, zstandard.ZstdError, *ZIP_FAULTS) as error:
        if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
            raise
        raise _refused(file, str(error)) from error


def _refused(file: str, reason: str) -> EnvbuildError:
    return EnvbuildError(
        "bad-toolchain-artifact",
        f"{file} cannot be read: {reason}",
        where=file,
        hint="its hash is the locked one, so the lock names a broken file: lock another version of it",
        exit=Exit.VERIFY,
    )
