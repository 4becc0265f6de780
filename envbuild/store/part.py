"""A file that is being fetched: what has come so far, its running hash, and what is known of its source."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from envbuild.oci.digest import CHUNK, Sha256, read_regular
from envbuild.oci.disk import Writeback, guarded, publish, storage_error, write_file
from envbuild.oci.document import read_json

_ORIGIN_LIMIT = 1 << 20


def part_path(folder: Path, sha256: str) -> Path:
    """Where what has come of the file of that hash (64 hex digits) lies."""
    return folder / f"{Sha256(sha256)}.part"


class Part:
    """The file ``<folder>/<sha256>.part``. The caller holds the file's lock.

    What an earlier process wrote is hashed again, never trusted; a file of that process that is longer than
    ``size`` is dropped.
    """

    def __init__(self, folder: Path, sha256: str, size: int | None, *, work: Path) -> None:
        self.path = part_path(folder, sha256)
        self._origin = self.path.with_suffix(".origin")
        self._work = work
        self._hasher = hashlib.sha256()
        self.offset = 0
        with guarded(self.path):
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if size is not None and os.fstat(self._handle).st_size > size:
                os.ftruncate(self._handle, 0)
            while chunk := os.pread(self._handle, CHUNK, self.offset):
                self._hasher.update(chunk)
                self.offset += len(chunk)
        self._writeback = Writeback(self._handle)

    @property
    def sha256(self) -> str:
        """The hash of what is here (64 hex digits)."""
        return self._hasher.hexdigest()

    def validator(self, address: str) -> str | None:
        """The strong ETag that the source at ``address`` gave for these bytes, if they came from there."""
        try:
            value = read_json(read_regular(self._origin, _ORIGIN_LIMIT))
        except (OSError, ValueError):
            return None
        if not isinstance(value, dict) or value.get("address") != _fingerprint(address):
            return None
        etag = value.get("etag")
        return etag if isinstance(etag, str) else None

    def came_from(self, address: str, etag: str | None) -> None:
        """Remember the source of the bytes to come. Of the address only a hash is kept: it may hold a secret."""
        if etag is None or etag.startswith("W/"):
            self._forget()
        elif self.validator(address) != etag:
            value = json.dumps({"address": _fingerprint(address), "etag": etag}).encode()
            write_file(self._origin, value, work=self._work)

    def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            EnvbuildError: the disk is full or the folder cannot be written.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.pwrite(self._handle, view, self.offset + len(data) - len(view)) :]
        except OSError as error:
            raise storage_error(error, self.path) from error
        self._hasher.update(data)
        self.offset += len(data)
        self._writeback.reached(self.offset)

    def restart(self) -> None:
        """Drop what has come."""
        with guarded(self.path):
            os.ftruncate(self._handle, 0)
        self._hasher = hashlib.sha256()
        self._writeback = Writeback(self._handle)
        self.offset = 0
        self._forget()

    def finish(self, final: Path) -> None:
        """Give the verified file its final name, synced."""
        with guarded(final):
            os.fsync(self._handle)
            self._forget()  # first: killed in between, the file is whole and needs no source
            publish(self.path, final)

    def discard(self) -> None:
        """Remove the file."""
        for path in (self._origin, self.path):
            with suppress(OSError):
                path.unlink()

    def close(self) -> None:
        """Let go of the file; an empty one is removed."""
        if self.offset == 0:
            self.discard()
        os.close(self._handle)

    def _forget(self) -> None:
        with suppress(OSError):
            self._origin.unlink()


def _fingerprint(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()
