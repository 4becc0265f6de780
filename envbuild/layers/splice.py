"""The layer that is not recompressed: gzip members that wrap a wheel's deflate streams as they are.

A gzip file may have many members (RFC 1952, section 2.2), and a zip entry is a bare deflate stream whose CRC32 and
size the zip directory holds: a ten-byte header before it and those eight bytes after it make it a member. What lies
between two entries (tar headers, padding, files that installing makes, stored entries) goes into one member of
stored blocks. docs/explanation/layers.md tells why.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.format import FORMAT
from envbuild.layers.gzip import HEADER, StoredMember, trailer
from envbuild.layers.inflate import CHUNK, Inflater, chunks
from envbuild.layers.tar import END, header, padding
from envbuild.layers.wheel import SplicedFile, WheelPlan, WrittenFile
from envbuild.layers.zip import STORED
from envbuild.oci import digest as digests
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.progress import Progress

_BATCH = 4 * CHUNK
_BATCHES_AHEAD = 8


@dataclass(frozen=True, slots=True)
class _Splice:
    """A zip entry on its way into the layer: the open wheel and the byte range."""

    fd: int
    wheel: str
    file: SplicedFile


_Item = bytes | _Splice
_Event = bytes | _Splice | None
"""What the plain side hears: bytes (of the tar, or compressed ones while in an entry), an entry begins, it ends."""


def layer_chunks(plans: Sequence[WheelPlan]) -> Iterator[bytes]:
    """The layer's blob, streamed from the wheels.

    Nothing is inflated or verified here: the receiver compares the digest with the one that
    :func:`write_wheel_layer` found when it verified everything.

    Raises:
        EnvbuildError: a wheel cannot be read any more, or two wheels bring different files under one path.
    """
    return _gathered(_encode(_items(plans), lambda event: None))


def write_wheel_layer(name: str, plans: Sequence[WheelPlan], layout: Layout, progress: Progress) -> Layer:
    """Write the layer of ``plans`` into ``layout``, verifying every byte on the way.

    The blob is hashed and written by the caller's thread; a second one inflates each entry, checks its size,
    CRC32 and RECORD hash and hashes the tar. Memory is bounded whatever the wheels' sizes. An error or an
    interrupt leaves no blob and no thread.

    Args:
        name: the layer's name for people.
        plans: the wheels in it, in any order.
        layout: where the blob goes.
        progress: told of the bytes that were read.

    Raises:
        EnvbuildError: exit 5 if a wheel does not verify; 3 if two bring different files under one path.
    """
    plans = _ordered(plans)
    plain = _PlainSide()
    total = sum(plan.bytes_read for plan in plans)
    with progress.task(name, total=total) as task, _Worker(plain.take) as worker, layout.writer() as blob:
        for chunk in _gathered(_encode(_items(plans), worker.put)):
            blob.write(chunk)
            task.advance(len(chunk))
        worker.finish()
    return Layer(
        name=name,
        digest=blob.digest,
        diff_id=plain.digest,
        size=blob.size,
        artifacts=tuple(plan.name for plan in plans),
    )


class _OtherBytes(Exception):
    """What was written is not the blob that was expected."""


def write_known_layer(known: Layer, plans: Sequence[WheelPlan], layout: Layout, progress: Progress) -> bool:
    """Write the layer of ``plans``, which is ``known`` to have been made and verified before.

    Equal bytes have an equal diff_id and equal contents, so only the blob is hashed: nothing is inflated.

    Args:
        known: the layer that a lock names.
        plans: the wheels in it, in any order.
        layout: where the blob goes.
        progress: told of the bytes that were written.

    Returns:
        Whether the blob is ``known``. If not, nothing is left: :func:`write_wheel_layer` finds out why.

    Raises:
        EnvbuildError: as :func:`write_wheel_layer`, but for what only inflating shows.
    """
    try:
        with progress.task(known.name, total=known.size) as task, layout.writer() as blob:
            for chunk in layer_chunks(plans):
                blob.write(chunk)
                task.advance(len(chunk))
            if blob.digest != known.digest:
                raise _OtherBytes
    except _OtherBytes:
        return False
    return True


def wheel_layer_key(plans: Sequence[WheelPlan]) -> str:
    """What the bytes of the layer depend on, as one hex digest: the key of its place in the cache."""
    inputs = [[plan.file, plan.sha256] for plan in _ordered(plans)]
    return digests.of_bytes(digests.canonical_json(["wheels", FORMAT, inputs])).removeprefix("sha256:")


def check_conflicts(plans: Sequence[WheelPlan]) -> None:
    """Refuse two wheels that bring different files under one path, in one layer or in two.

    The same file (content and mode) may come with several wheels: in one layer it is written once, and each
    layer that brings it has its own copy, so that a layer depends on its own wheels only.

    Raises:
        EnvbuildError: ``wheel-conflict``, exit 3, naming both wheels and the path.
    """
    files: dict[str, tuple[tuple[int, str, int], str]] = {}
    folders: dict[str, str] = {}
    for plan in _ordered(plans):
        for file in plan.files:
            identity = (file.size, file.hash, file.mode)
            seen, owner = files.setdefault(file.path, (identity, plan.file))
            if seen != identity:
                raise _conflict(file.path, owner, plan.file)
            for folder in _parents(file.path):
                if folder in folders:
                    break
                folders[folder] = plan.file
    for path in sorted(files.keys() & folders.keys()):
        raise _conflict(path, files[path][1], folders[path])


def _conflict(path: str, one: str, other: str) -> EnvbuildError:
    return EnvbuildError(
        "wheel-conflict",
        f"{one} and {other} bring different files as /{path}",
        hint="pin versions of the two packages that go together and run `envbuild lock REF`",
        exit=Exit.INPUT,
        where=other,
    )


def _ordered(plans: Sequence[WheelPlan]) -> list[WheelPlan]:
    return sorted(plans, key=lambda plan: (plan.name, plan.file))


def _parents(path: str) -> Iterator[str]:
    """The folders of ``path``, the innermost first."""
    parent = path.rpartition("/")[0]
    while parent:
        yield parent
        parent = parent.rpartition("/")[0]


def _items(plans: Sequence[WheelPlan]) -> Iterator[_Item]:
    """The tar in pieces: bytes of it, and zip entries whose plain bytes belong there."""
    check_conflicts(plans)
    written: set[str] = set()
    for plan in _ordered(plans):
        fd = _open(plan)
        try:
            for file in plan.files:
                if file.path in written:
                    continue
                missing = [folder for folder in _parents(file.path) if folder not in written]
                for folder in reversed(missing):
                    yield header(folder, "dir", mode=0o755)
                written.update(missing)
                written.add(file.path)
                yield header(file.path, "file", mode=file.mode, size=file.size)
                yield file.content if isinstance(file, WrittenFile) else _Splice(fd, plan.file, file)
                yield padding(file.size)
        finally:
            os.close(fd)
    yield END


def _open(plan: WheelPlan) -> int:
    try:
        return os.open(plan.wheel, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise EnvbuildError(
            "wheel-unreadable",
            f"{plan.file}: {plan.wheel} cannot be opened: {error.strerror}",
            hint="run the command again; it fetches what the store lacks",
            exit=Exit.INPUT,
            where=plan.file,
        ) from None


def _encode(items: Iterable[_Item], tell: Callable[[_Event], None]) -> Iterator[bytes]:
    """The blob's bytes. ``tell`` hears the same content from the side of the tar."""
    glue = StoredMember()
    for item in items:
        if isinstance(item, bytes):
            tell(item)
            yield from glue.feed(item)
            continue
        stored = item.file.method == STORED
        if not stored:
            yield from glue.finish()
            yield HEADER
        tell(item)
        for data in chunks(item.fd, item.wheel, item.file.offset, item.file.compressed):
            tell(data)
            if stored:
                yield from glue.feed(data)
            else:
                yield data
        tell(None)
        if not stored:
            yield trailer(item.file.crc, item.file.size)
    yield from glue.finish()


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of about ``CHUNK``, since hashing and writing small ones costs more than joining."""
    pending: list[bytes] = []
    length = 0
    for piece in pieces:
        pending.append(piece)
        length += len(piece)
        if length >= CHUNK:
            yield b"".join(pending)
            pending.clear()
            length = 0
    if pending:
        yield b"".join(pending)


class _PlainSide:
    """Inflates and verifies what goes into the blob, and hashes the tar that a reader will see."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self._entry: Inflater | None = None

    @property
    def digest(self) -> str:
        return "sha256:" + self._hasher.hexdigest()

    def take(self, event: _Event) -> None:
        if isinstance(event, _Splice):
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


class _Worker:
    """One thread that handles events in order, a bounded number of bytes behind.

    A context manager: leaving it ends the thread, whatever happened. The first error in the thread is raised
    by the next :meth:`put` or by :meth:`finish`.
    """

    def __init__(self, handle: Callable[[_Event], None]) -> None:
        self._handle = handle
        self._batch: list[_Event] = []
        self._bytes = 0
        self._queue: queue.Queue[list[_Event] | None] = queue.Queue(_BATCHES_AHEAD)
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inflate", daemon=True)

    def __enter__(self) -> _Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._queue.put(None)
        self._thread.join()

    def put(self, event: _Event) -> None:
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
