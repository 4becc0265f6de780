"""Many files at once, into the store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from envbuild.errors import EnvbuildError
from envbuild.oci.disk import Stopped, disk_full, guarded, present
from envbuild.progress import Progress, Task
from envbuild.store.download import Download, Source, Wanted
from envbuild.store.http import Http
from envbuild.store.part import Part, part_path
from envbuild.store.store import Store

__all__ = ["Source", "Wanted", "fetch"]


def fetch(
    store: Store,
    wanted: Sequence[Wanted],
    *,
    http: Http,
    jobs: int,
    progress: Progress,
    place: Callable[[str], Path] | None = None,
) -> int:
    """Bring every wanted file into the store; those that are there cost nothing.

    A file gets its name only when its sha256 and size are right and it is synced. A cut leaves what has come in
    ``partial/``, and the next run goes on from there. Two processes fetch a file once. Memory does not depend on
    the files' sizes.

    Args:
        store: where to.
        wanted: what; the same hash twice is fetched once.
        http: the connections.
        jobs: files at once, at least 1.
        progress: one task for all of them, in bytes.
        place: the final path for a hash (64 hex digits), on the store's file system; ``store.artifact`` by default.

    Returns:
        Bytes that came from the sources.

    Raises:
        EnvbuildError: exit 5 when a source gave other bytes and none the right ones, exit 4 when no source could
            be read, exit 2 when the store cannot hold the files.
    """
    where = place or store.artifact
    missing = {item.sha256: item for item in reversed(wanted) if not present(where(item.sha256), item.size)}
    if not missing:
        return 0
    files = sorted(missing.values(), key=lambda item: (-(item.size or 0), item.file))
    _check_room(store, files)
    label = f"fetch {files[0].name}" if len(files) == 1 else f"fetch {len(files)} files"
    sizes = [item.size for item in files]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    with progress.task(label, total=total, unit="B") as task:
        return _Fetch(store, where, http, progress, _Count(task, files)).run(files, jobs)


class _Count:
    """Bytes of all files. A byte that comes twice counts once for the display."""

    def __init__(self, task: Task, files: Sequence[Wanted]) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._seen = {item.sha256: 0 for item in files}
        self._sizes = {item.sha256: item.size for item in files}
        self.received = 0

    def came(self, wanted: Wanted, offset: int, amount: int) -> None:
        with self._lock:
            self.received += amount
        self.reached(wanted, offset)

    def reached(self, wanted: Wanted, offset: int) -> None:
        """The file is known up to ``offset``."""
        with self._lock:
            more = offset - self._seen[wanted.sha256]
            if more > 0:
                self._seen[wanted.sha256] = offset
        if more > 0:
            self._task.advance(more)

    def announced(self, wanted: Wanted, size: int) -> None:
        with self._lock:
            if self._sizes[wanted.sha256] is not None:
                return
            self._sizes[wanted.sha256] = size
            known = [value for value in self._sizes.values() if value is not None]
        if len(known) == len(self._sizes):
            self._task.total(sum(known))


class _Fetch:
    def __init__(
        self, store: Store, place: Callable[[str], Path], http: Http, progress: Progress, count: _Count
    ) -> None:
        self._store = store
        self._place = place
        self._http = http
        self._progress = progress
        self._count = count
        self._stop = threading.Event()
        self._running: set[Download] = set()
        self._guard = threading.Lock()

    def run(self, files: Sequence[Wanted], jobs: int) -> int:
        pool = ThreadPoolExecutor(max_workers=max(1, min(jobs, len(files))), thread_name_prefix="fetch")
        try:
            futures = [pool.submit(self._one, item) for item in files]
            for future in as_completed(futures):
                future.result()
        except BaseException:
            self._stop.set()
            with self._guard:
                for download in self._running:
                    download.abort()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return self._count.received

    def _one(self, wanted: Wanted) -> None:
        if self._stop.is_set():
            raise Stopped
        final = self._place(wanted.sha256)
        with self._store.lock(f"fetch {wanted.sha256}", self._progress, stop=self._stop.is_set):
            if present(final, wanted.size):
                self._count.reached(wanted, final.stat().st_size)
                return
            part = Part(self._store.partial, wanted.sha256, wanted.size, work=self._store.root / "tmp")
            try:
                self._count.reached(wanted, part.offset)
                self._download(wanted, part, final)
            except EnvbuildError as error:
                if error.id == "disk-full":
                    part.discard()
                raise
            finally:
                part.close()

    def _download(self, wanted: Wanted, part: Part, final: Path) -> None:
        download = Download(wanted, part, http=self._http, tally=self._count, stop=self._stop)
        with self._guard:
            self._running.add(download)
        try:
            download.run(final)
        finally:
            with self._guard:
                self._running.discard(download)


def _check_room(store: Store, files: Sequence[Wanted]) -> None:
    """Refuse before the first byte when the files whose size is known do not fit."""
    needed = 0
    for item in files:
        if item.size is not None:
            part = part_path(store.partial, item.sha256)
            have = part.stat().st_size if part.exists() else 0
            needed += max(0, item.size - have)
    with guarded(store.root):
        space = os.statvfs(store.partial)
    free = space.f_bavail * space.f_frsize
    if needed > free:
        raise disk_full(store.root, f"{needed:,} bytes are needed to fetch {len(files)} files")
