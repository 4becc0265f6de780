"""The other side of a wheel layer: what a reader will see is inflated, verified and hashed, in a thread of its own."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable

from envbuild.layers.inflate import CHUNK, Inflater
from envbuild.layers.members import Event, Splice

_BATCH = 4 * CHUNK
_BATCHES_AHEAD = 8


class PlainSide:
    """Inflates and verifies what goes into the blob, and hashes the tar that a reader will see."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self._entry: Inflater | None = None

    @property
    def digest(self) -> str:
        """The tar's digest so far."""
        return "sha256:" + self._hasher.hexdigest()

    def take(self, event: Event) -> None:
        """Hear one event.

        Raises:
            EnvbuildError: exit 5, what an entry holds is not what its wheel promises.
        """
        if isinstance(event, Splice):
            file = event.file
            self._entry = Inflater(
                event.wheel, file.path, method=file.method, size=file.size, crc=file.crc, hash=file.hash
            )
        elif self._entry is None:
            self._hasher.update(event or b"")
        elif event is None:
            self._entry.finish()
            self._entry = None
        else:
            for plain in self._entry.feed(event):
                self._hasher.update(plain)


class Worker:
    """One thread that handles events in order, a bounded number of bytes behind.

    A context manager: leaving it ends the thread, whatever happened. The first error in the thread is raised
    by the next :meth:`put` or by :meth:`finish`.
    """

    def __init__(self, handle: Callable[[Event], None]) -> None:
        self._handle = handle
        self._batch: list[Event] = []
        self._bytes = 0
        self._queue: queue.Queue[list[Event] | None] = queue.Queue(_BATCHES_AHEAD)
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inflate", daemon=True)

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._queue.put(None)
        self._thread.join()

    def put(self, event: Event) -> None:
        """Hand over one event."""
        self._batch.append(event)
        self._bytes += len(event) if isinstance(event, bytes) else 0
        if self._bytes >= _BATCH:
            self._hand_over()

    def finish(self) -> None:
        """Wait until everything has been handled."""
        self._hand_over()
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _hand_over(self) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put(self._batch)
        self._batch, self._bytes = [], 0

    def _run(self) -> None:
        """Handle batches until told to end; after an error or a stop only drain, so that nobody waits for room."""
        while (batch := self._queue.get()) is not None:
            if self._stop.is_set() or self._error is not None:
                continue
            try:
                for event in batch:
                    self._handle(event)
            except BaseException as error:  # handed to the thread that waits for it
                self._error = error
