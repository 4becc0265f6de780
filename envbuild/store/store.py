"""The store: one folder, shared by every build of a user, safe for several processes at once."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci import digest as digests
from envbuild.oci.disk import (
    FileLock,
    guarded,
    holder,
    new_file,
    pauses,
    present,
    publish,
    storage_error,
    sweep_files,
    take_lock,
    try_lock,
    write_file,
)
from envbuild.oci.document import read_json, read_object
from envbuild.oci.layout import Layout
from envbuild.oci.trees import remove_tree
from envbuild.progress import Progress, SilentProgress
from envbuild.readback import readable

FORMAT = 1
"""The number in ``store.json``: how the folders below are used."""

_FOLDERS = ("artifacts/sha256", "partial", "oci", "cache", "roots", "tmp", "locks")
_OURS = {name.split("/")[0] for name in _FOLDERS} | {"store.json", "lost+found"}
_SCRATCH = "scratch-"
_SCRATCH_NAME = re.compile(_SCRATCH + r".*-[0-9a-f]{12}(\.lock)?")
_RECORD_LIMIT = 64 << 20


class Store:
    """The folder ``root`` (docs/reference/store.md says what lies where).

    A store that is open holds the store's use lock, shared, until it is closed or its process ends: garbage is
    collected only when nobody holds it.
    """

    def __init__(self, root: Path, layout: Layout, use: FileLock) -> None:
        self.root = root
        self.layout = layout
        self.roots = root / "roots"
        self.partial = root / "partial"
        self._use = use
        self._finalizer = weakref.finalize(self, use.release)

    @classmethod
    def open(cls, root: Path, *, progress: Progress | None = None) -> Store:
        """Open the store at ``root``, making it if it is missing, and sweep what dead processes left.

        Raises:
            EnvbuildError: no permission, read-only, no space, not a folder, somebody else's folder, or a store
                of another format (exit 2).
        """
        root = root.expanduser().absolute()
        say = (progress or SilentProgress()).note
        with guarded(root):
            root.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(root)
            for folder in _FOLDERS:
                (root / folder).mkdir(parents=True, exist_ok=True)
        use = take_lock(
            root / "locks" / "use.lock",
            shared=True,
            waiting=lambda whom: say(f"waiting for {whom}, which collects garbage in {root}"),
        )
        try:
            with guarded(root):
                if not (root / "store.json").exists():
                    write_file(
                        root / "store.json", json.dumps({"format": FORMAT}).encode(), work=root / "tmp"
                    )
            layout = Layout.create(root / "oci")
        except BaseException:
            use.release()
            raise
        store = cls(root, layout, use)
        store.sweep()
        return store

    def close(self) -> None:
        """Stop using the store: garbage may be collected by others."""
        self._finalizer()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def artifact(self, sha256: str) -> Path:
        """Where the artifact of that hash (64 hex digits) lies, or would lie.

        Raises:
            BadDigest: it is no such hash (exit 5).
        """
        return self.root / "artifacts" / "sha256" / digests.Sha256(sha256)

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Whether the artifact is here, with ``size`` bytes if that is given."""
        return present(self.artifact(sha256), size)

    def adopt(self, path: Path) -> str:
        """Move a finished file in as an artifact; returns its sha256 (64 hex digits).

        A file on another file system is copied and then removed.

        Raises:
            EnvbuildError: the store cannot be written; ``path`` is then still there.
        """
        folder = self.root / "artifacts" / "sha256"
        with guarded(path):
            if path.stat().st_dev == folder.stat().st_dev:
                sha256 = _settle(path)
                publish(path, folder / sha256)
                return sha256
            lock = new_file(self.root / "tmp")
            finished = False
            try:
                shutil.copyfile(path, lock.path)
                sha256 = _settle(lock.path)
                publish(lock.path, folder / sha256)
                finished = True
            finally:
                lock.release(remove=not finished)
            path.unlink()
        return sha256

    def record(self, kind: str, key: str) -> dict[str, object] | None:
        """What was recorded under ``kind`` and ``key``, or ``None``. An unreadable record counts as none."""
        path = self._record(kind, key)
        try:
            return read_object(digests.read_regular(path, _RECORD_LIMIT))
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise storage_error(error, path) from error

    def put_record(self, kind: str, key: str, value: dict[str, object]) -> None:
        """Record ``value`` (JSON) under ``kind`` and ``key``, replacing what was there."""
        path = self._record(kind, key)
        with guarded(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        data = readable(lambda: digests.canonical_json(value), read_object, where=str(path))
        write_file(path, data, work=self.root / "tmp")

    @contextmanager
    def scratch(self, label: str) -> Iterator[Path]:
        """A private, empty folder while the context lasts. If this process dies, a later one sweeps it."""
        with guarded(self.root / "tmp"):
            while True:
                folder = self.root / "tmp" / f"{_SCRATCH}{_plain(label)}-{secrets.token_hex(6)}"
                lock = try_lock(folder.with_name(folder.name + ".lock"))
                if lock is not None:
                    break
            try:
                folder.mkdir()
            except BaseException:
                lock.release(remove=True)
                raise
        try:
            yield folder
        finally:
            remove_tree(folder, ignore_errors=True)
            lock.release(remove=not folder.exists())

    @contextmanager
    def lock(
        self, name: str, progress: Progress, *, stop: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """Keep every other thread and process out of ``name`` while the context lasts.

        Says on ``progress`` whom it waits for. ``stop`` ends the wait with ``Stopped``.
        """
        lock = take_lock(
            self.root / "locks" / f"{_plain(name)}.lock",
            waiting=lambda whom: progress.note(f"waiting for {whom}, which works on {name}"),
            stop=stop,
        )
        try:
            yield
        finally:
            lock.release(remove=True)

    @contextmanager
    def alone(self, progress: Progress) -> Iterator[None]:
        """Wait until no other process uses the store, and keep them out while the context lasts."""
        use = self.root / "locks" / "use.lock"
        if not self._use.convert(shared=False):
            progress.note(f"waiting for {holder(use)}, which uses {self.root}")
            for _ in pauses():
                if self._use.convert(shared=False):
                    break
        try:
            yield
        finally:
            self._use.convert(shared=True)

    def sweep(self) -> None:
        """Remove scratch folders and unfinished files of processes that have died."""
        folder = self.root / "tmp"
        sweep_files(folder)
        with guarded(folder):
            names = {
                path.name.removesuffix(".lock")
                for path in folder.iterdir()
                if _SCRATCH_NAME.fullmatch(path.name) and not path.is_symlink()
            }
            for name in sorted(names):
                _sweep_scratch(folder / name)

    def _record(self, kind: str, key: str) -> Path:
        return self.root / "cache" / _plain(kind) / f"{_plain(key)}.json"


def _sweep_scratch(folder: Path) -> None:
    """The lock is made before its folder and removed after it, so a folder that can be locked is dead."""
    lock = try_lock(folder.with_name(folder.name + ".lock"))
    if lock is None:
        return
    remove_tree(folder, ignore_errors=True)  # files of another user's ids stay, and so does the lock
    lock.release(remove=not folder.exists())


def _settle(path: Path) -> str:
    """Hash and sync a file that is about to get its final name."""
    digest = digests.of_file(path)
    path.chmod(0o644)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return digest.removeprefix("sha256:")


def _plain(name: str) -> str:
    """``name`` as one file name: no slash, no leading dot, at most 200 characters."""
    text = quote(name, safe="+=@,")
    if text.startswith("."):
        text = "%2E" + text[1:]
    if not text or len(text) > 200:
        return digests.of_bytes(name.encode()).removeprefix("sha256:")
    return text


def _refuse_foreign(root: Path) -> None:
    marker = root / "store.json"
    choose = "name another folder with --store or ENVBUILD_STORE"
    try:
        value = read_json(digests.read_regular(marker, _RECORD_LIMIT))
    except FileNotFoundError:
        strangers = sorted({path.name for path in root.iterdir()} - _OURS)
        if not strangers:
            return
        raise EnvbuildError(
            "store-foreign",
            f"{root} is not a store of envbuild: it holds {strangers[0]}",
            hint=f"{choose}: an empty or a new one",
            exit=Exit.USAGE,
            where=str(root),
        ) from None
    except ValueError:
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        seen = value.get("format") if isinstance(value, dict) else "unreadable"
        raise EnvbuildError(
            "store-format",
            f"{root} is a store of format {seen}, and this envbuild uses format {FORMAT}",
            hint=f"{choose}, or remove it",
            exit=Exit.USAGE,
            where=str(marker),
        )
