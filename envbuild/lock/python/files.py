"""What an index does not say about a file, asked of the file's server: its size, its METADATA."""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.python.uv import RemoteFile
from envbuild.progress import Progress
from envbuild.store import Http
from envbuild.store.faults import Fault
from envbuild.store.http import number

ZIP_FAULTS = (
    *(
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        OSError,
        ValueError,
        LookupError,
    ),
    *(OverflowError, RuntimeError),
)
"""What ``zipfile`` raises for a file that is damaged, encrypted, or compressed in a way that it does not know."""

_PARALLEL = 16
_METADATA_LIMIT = 16 << 20
_RANGE_LIMIT = 64 << 20
"""Bytes of one read: a wheel's directory has some."""


def with_credentials(url: str, indexes: Sequence[str]) -> str:
    """``url`` with the credentials of the index on the same host, which uv leaves out of its answers."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return url
    for index in indexes:
        other = urlsplit(index)
        credentials, at, host = other.netloc.rpartition("@")
        if at and (other.scheme, host) == (parts.scheme, parts.netloc):
            return parts._replace(netloc=f"{credentials}@{host}").geturl()
    return url


def sizes(
    files: Sequence[RemoteFile], indexes: Sequence[str], http: Http, progress: Progress
) -> Mapping[str, int]:
    """The sizes in bytes of all files, by URL; those that the index tells are not asked for again.

    Raises:
        EnvbuildError: exit 4, a server does not answer or tells no length.
    """
    with progress.task("ask for sizes", total=len(files), unit="files") as task:

        def ask(file: RemoteFile) -> tuple[str, int]:
            length = file.size if file.size is not None else length_of(file.url, file.name, indexes, http)
            task.advance(1)
            return file.url, length

        with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
            return dict(pool.map(ask, files))


def length_of(url: str, name: str, indexes: Sequence[str], http: Http) -> int:
    """The length in bytes of the file at ``url``, by HEAD, or by a range of one byte where HEAD is refused."""
    if urlsplit(url).scheme == "file":
        return _local(url, name).stat().st_size
    address = with_credentials(url, indexes)
    effort = http.patience.start()
    while True:
        try:
            with http.open(address, method="HEAD") as answer:
                if answer.status == 200 and answer.length is not None:
                    return answer.length
                fault = http.refusal(answer)
            if not fault.retry:
                return _length_by_range(address, http)
            raise fault
        except Fault as fault:
            if not effort.again(fault):
                raise _unreadable(name, fault) from None


def _length_by_range(address: str, http: Http) -> int:
    with http.open(address, headers={"Range": "bytes=0-0"}) as answer:
        total = number(answer.headers.get("Content-Range", "").rpartition("/")[2])
        if answer.status == 206 and total is not None:
            return total
        if answer.status == 200 and answer.length is not None:
            return answer.length
        raise http.refusal(answer)


def wheel_metadata(
    url: str, name: str, *, sha256: str | None, beside: bool, indexes: Sequence[str], http: Http
) -> str:
    """A wheel's METADATA: the file beside it (PEP 658) where there is one, else read out of the wheel by ranges.

    Args:
        url: the wheel's address.
        name: the wheel's file name.
        sha256: the hash of the file beside it as the index gives it.
        beside: whether the index says that there is one.
        indexes: whose credentials may be used.
        http: the connections.

    Raises:
        EnvbuildError: exit 4, it cannot be read; exit 5, it has another hash than the index says.
    """
    address = with_credentials(url, indexes)
    if beside:
        try:
            data = http.get(address + ".metadata", label=f"{name}.metadata", limit=_METADATA_LIMIT)
        except EnvbuildError as error:
            if error.id != "not-found":
                raise
        else:
            seen = hashlib.sha256(data).hexdigest()
            if sha256 and seen != sha256:
                raise EnvbuildError(
                    "wrong-hash", f"{name}.metadata has sha256 {seen}, the index says {sha256}",
                    hint="Something between here and the index changes files: check mirrors and proxies.",
                    exit=Exit.VERIFY, where=name,
                )  # fmt: skip
            return data.decode("utf-8", "replace")
    return _inside(address, name, indexes, http)


def _inside(address: str, name: str, indexes: Sequence[str], http: Http) -> str:
    local = urlsplit(address).scheme == "file"
    stream = _local(address, name).open("rb") if local else _Remote(address, name, indexes, http)
    prefix = "-".join(name.split("-")[:2]) + ".dist-info/METADATA"
    try:
        with stream, zipfile.ZipFile(stream) as wheel:
            members = [item for item in wheel.infolist() if item.filename.lower() == prefix.lower()]
            with wheel.open(members[0]) as member:
                data = member.read(_METADATA_LIMIT + 1)
            if len(data) > _METADATA_LIMIT:
                raise zipfile.BadZipFile(f"it has more than {_METADATA_LIMIT} bytes")
            return data.decode("utf-8", "replace")
    except EnvbuildError:
        raise
    except ZIP_FAULTS as error:
        reason = f"{prefix} cannot be read: {error}" if str(error) else f"it has no {prefix}"
        raise EnvbuildError(
            "wrong-wheel", f"{name} is not a sound wheel: {reason}",
            hint="The index serves a damaged file: ask its keeper, or use another (ENVBUILD_PYTHON_INDEX).",
            exit=Exit.VERIFY, where=name,
        ) from None  # fmt: skip


class _Remote(io.RawIOBase):
    """A remote file that can be read anywhere, by HTTP ranges (RFC 9110, section 14)."""

    def __init__(self, address: str, name: str, indexes: Sequence[str], http: Http) -> None:
        super().__init__()
        self._address, self._name, self._http = address, name, http
        self._size = length_of(address, name, indexes, http)
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if end - self._at > _RANGE_LIMIT:
            raise zipfile.BadZipFile
        if end <= self._at:
            return b""
        effort = self._http.patience.start()
        while True:
            try:
                with self._http.open(
                    self._address, headers={"Range": f"bytes={self._at}-{end - 1}"}
                ) as answer:
                    if answer.status != 206:
                        raise self._http.refusal(answer)
                    data = answer.read(end - self._at)
                self._at += len(data)
                return data
            except Fault as fault:
                if not effort.again(fault):
                    raise _unreadable(self._name, fault) from None


def _local(url: str, name: str) -> Path:
    path = Path(url2pathname(unquote(urlsplit(url).path)))
    if not path.is_file():
        raise EnvbuildError(
            "not-found",
            f"{name}: there is no such file on the index",
            hint="Check the index's address.",
            exit=Exit.NETWORK,
        )
    return path


def _unreadable(name: str, fault: Fault) -> EnvbuildError:
    return EnvbuildError(
        "source-failed",
        f"{name}: the index's file server {fault}",
        hint=fault.hint,
        exit=Exit.NETWORK,
        where=name,
    )
