"""An OCI image layout in a folder (OCI image spec, image-layout.md), safe for several writers at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci import digest as digests
from envbuild.oci.descriptor import INDEX, Descriptor
from envbuild.oci.disk import (
    FileLock,
    Writeback,
    guarded,
    new_file,
    present,
    publish,
    storage_error,
    sweep_files,
    take_lock,
    write_file,
)
from envbuild.oci.document import read_json

REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
_REF = re.compile(
    r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*"
)
_WORK = ".envbuild"
_BUFFER = 1 << 20
_INDEX_LIMIT = 64 << 20


class BlobWriter:
    """One new blob. A context manager: leaving it gives the blob its name, an exception leaves nothing.

    The file being written is locked, so that another process can tell it from one whose writer has died.
    """

    def __init__(self, blobs: Path, work: Path) -> None:
        self._blobs = blobs
        self._work = work
        self._file: FileLock | None = None
        self._hasher = hashlib.sha256()
        self._size = 0
        self._stream: IO[bytes] | None = None

    @property
    def digest(self) -> str:
        """The digest of what has been written so far."""
        return "sha256:" + self._hasher.hexdigest()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``.

        Raises:
            EnvbuildError: the disk is full, or the folder cannot be written.
        """
        if self._stream is None:
            raise ValueError("the writer is not open")
        try:
            self._stream.write(data)
        except OSError as error:
            raise storage_error(error, self._blobs) from error
        self._hasher.update(data)
        self._size += len(data) if isinstance(data, bytes) else data.nbytes
        self._writeback.reached(self._size)

    def __enter__(self) -> BlobWriter:
        with guarded(self._work):
            self._file = new_file(self._work)
            self._writeback = Writeback(self._file.handle)
            self._stream = open(self._file.handle, "wb", buffering=_BUFFER, closefd=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, stream = self._file, self._stream
        self._file = self._stream = None
        if file is None or stream is None:
            return
        finished = False
        try:
            if kind is None:
                with guarded(self._blobs):
                    stream.flush()
                    os.fsync(file.handle)
                    publish(file.path, self._blobs / self._hasher.hexdigest())
                finished = True
        finally:
            with suppress(OSError):  # a full disk refuses the last flush again
                stream.close()
            file.release(remove=not finished)


class Layout:
    """The layout at ``root``: blobs by digest, images by name in ``index.json``.

    Blobs get their name only when complete and synced, so a name that exists is content that was verified
    when it was written. ``index.json`` is changed under a lock.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._work = root / _WORK
        self._index = root / "index.json"

    @property
    def blob_folder(self) -> Path:
        """The folder of the blobs, named by the hex digits of their sha256."""
        return self._blobs

    @classmethod
    def create(cls, root: Path) -> Layout:
        """Open the layout at ``root``, making what is missing, and sweep files of dead writers.

        Raises:
            EnvbuildError: the folder cannot be made or written, or is a layout of another version.
        """
        layout = cls(root)
        with guarded(root):
            layout._blobs.mkdir(parents=True, exist_ok=True)
            layout._work.mkdir(exist_ok=True)
            marker = root / "oci-layout"
            if not marker.exists():
                write_file(marker, _LAYOUT_FILE, work=layout._work)
            elif _version(marker) != "1.0.0":
                raise EnvbuildError(
                    "layout-version",
                    f"{root} is not an OCI image layout of version 1.0.0",
                    hint="name another folder with --store or ENVBUILD_STORE",
                    exit=Exit.USAGE,
                    where=str(marker),
                )
            if not layout._index.exists():
                layout._change(lambda manifests: None)
        layout.sweep()
        return layout

    def path(self, digest: str) -> Path:
        """Where the blob of ``digest`` lies, or would lie.

        Raises:
            BadDigest: it is no digest (exit 5).
        """
        return self._blobs / digests.Digest(digest).hex

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is here, with ``size`` bytes if that is given."""
        return present(self.path(digest), size)

    def read(self, digest: str) -> bytes:
        """The content of a small blob, checked against its digest.

        Raises:
            EnvbuildError: it is missing, or its content is not what the digest names.
        """
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise _lost(digest, "is not in the store") from None
        except OSError as error:
            raise storage_error(error, path) from error
        if digests.of_bytes(data) != digest:
            raise _lost(digest, f"has other content in the store ({digests.of_bytes(data)})")
        return data

    def put(self, data: bytes) -> str:
        """Write a small blob; returns its digest."""
        digest = digests.of_bytes(data)
        if not self.has(digest, len(data)):
            with self.writer() as writer:
                writer.write(data)
        return digest

    def writer(self) -> BlobWriter:
        """A new blob to write into; see :class:`BlobWriter`."""
        return BlobWriter(self._blobs, self._work)

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let ``name`` mean ``descriptor``'s manifest, and nothing else.

        ``name`` follows the grammar of ``org.opencontainers.image.ref.name`` (annotations.md).
        """
        if not _REF.fullmatch(name):
            raise EnvbuildError(
                "bad-image-name",
                f"{name!r} is not a valid image name",
                hint="use letters, digits and single separators: name:tag",
                exit=Exit.USAGE,
            )
        digests.Digest(descriptor.digest)
        entry = descriptor.to_dict()
        entry["annotations"] = {**descriptor.annotations, REF_NAME: name}

        def change(manifests: list[dict[str, object]]) -> None:
            manifests[:] = [item for item in manifests if _name(item) != name]
            manifests.append(entry)
            manifests.sort(key=lambda item: (_name(item) or "", str(item.get("digest"))))

        self._change(change)

    def untag(self, name: str) -> None:
        """Forget ``name``; its blobs stay until they are collected."""

        def change(manifests: list[dict[str, object]]) -> None:
            manifests[:] = [item for item in manifests if _name(item) != name]

        self._change(change)

    def resolve(self, name: str) -> Descriptor | None:
        """What ``name`` means, or ``None``."""
        return self.tags().get(name)

    def tags(self) -> dict[str, Descriptor]:
        """Every name and what it means."""
        found: dict[str, Descriptor] = {}
        for item in _manifests(self._read_index()):
            name = _name(item)
            if name is not None:
                if not digests.is_digest(item.get("digest")):
                    raise self._broken(f"names no digest for {name}")
                found[name] = _descriptor(item)
        return found

    def blobs(self) -> Iterator[str]:
        """The digest of every blob here, in order."""
        with guarded(self._blobs):
            names = sorted(path.name for path in self._blobs.iterdir())
        for name in names:
            if digests.is_digest("sha256:" + name):
                yield "sha256:" + name

    def remove(self, digest: str) -> int:
        """Delete a blob; returns the bytes it had (0 when it was not here)."""
        path = self.path(digest)
        with guarded(path):
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                return 0
        return size

    def sweep(self) -> None:
        """Remove the unfinished files of writers that have died."""
        sweep_files(self._work)

    def _read_index(self) -> dict[str, object]:
        try:
            value = read_json(digests.read_regular(self._index, _INDEX_LIMIT))
        except FileNotFoundError:
            return {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        except OSError as error:
            raise storage_error(error, self._index) from error
        except ValueError:
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("manifests"), list):
            raise self._broken("is not an OCI image index")
        return value

    def _broken(self, what: str) -> EnvbuildError:
        return EnvbuildError(
            "broken-index",
            f"{self._index} {what}",
            hint=f"remove {self._index} and run `envbuild image` again: the layers stay",
            exit=Exit.USAGE,
            where=str(self._index),
        )

    def _change(self, change: Callable[[list[dict[str, object]]], None]) -> None:
        lock = take_lock(self._work / "index.lock")
        try:
            index = self._read_index()
            manifests = _manifests(index)
            change(manifests)
            index["manifests"] = manifests
            data = json.dumps(index, indent=1, sort_keys=True).encode()
            write_file(self._index, data, work=self._work)
        finally:
            lock.release()


def _version(marker: Path) -> object:
    try:
        value = read_json(digests.read_regular(marker, _INDEX_LIMIT))
    except ValueError:
        return None
    return value.get("imageLayoutVersion") if isinstance(value, dict) else None


def _manifests(index: Mapping[str, object]) -> list[dict[str, object]]:
    entries = index["manifests"]
    assert isinstance(entries, list)  # _read_index checks
    return [item for item in entries if isinstance(item, dict)]


def _name(item: Mapping[str, object]) -> str | None:
    annotations = item.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def _descriptor(item: Mapping[str, object]) -> Descriptor:
    annotations = item.get("annotations")
    size = item.get("size")
    return Descriptor(
        media_type=str(item.get("mediaType")),
        digest=str(item.get("digest")),
        size=size if isinstance(size, int) else -1,
        annotations=dict(annotations) if isinstance(annotations, dict) else {},
    )


def _lost(digest: str, what: str) -> EnvbuildError:
    return EnvbuildError(
        "blob-lost",
        f"the blob {digest} {what}",
        hint="run `envbuild image` again: it is made or fetched anew",
        exit=Exit.VERIFY,
        where=digest,
    )
