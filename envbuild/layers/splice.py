"""The layer that is not recompressed: gzip members that wrap a wheel's deflate streams as they are.

A gzip file may have many members (RFC 1952, section 2.2), and a zip entry is a bare deflate stream whose CRC32 and
size the zip directory holds: a ten-byte header before it and those eight bytes after it make it a member. A table of
contents makes the layer eStargz: single files of it can be fetched. docs/explanation/layers.md tells why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.members import Encoder, File, Folder, Splice, gathered
from envbuild.layers.paths import normal
from envbuild.layers.plainside import PlainSide, Worker
from envbuild.layers.wheel import WheelPlan, WrittenFile
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.progress import Progress


def layer_chunks(plans: Sequence[WheelPlan]) -> Iterator[bytes]:
    """The layer's blob, streamed from the wheels.

    Nothing is inflated or verified here: the receiver compares the digest with the one that
    :func:`write_wheel_layer` found when it verified everything.

    Raises:
        EnvbuildError: a wheel cannot be read any more, or two wheels bring different files under one path.
    """
    return gathered(Encoder(lambda event: None).encode(_pieces(plans)))


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
    plain = PlainSide()
    total = sum(plan.bytes_read for plan in plans)
    with progress.task(name, total=total) as task, Worker(plain.take) as worker, layout.writer() as blob:
        encoder = Encoder(worker.put)
        for chunk in gathered(encoder.encode(_pieces(plans))):
            blob.write(chunk)
            task.advance(len(chunk))
        worker.finish()
    return Layer(
        name=name,
        digest=blob.digest,
        diff_id=plain.digest,
        size=blob.size,
        toc=encoder.toc,
        tar_size=encoder.tar_size,
        artifacts=tuple(plan.name for plan in plans),
    )


class _OtherBytes(Exception):
    """What was written is not the blob that was expected."""


def write_known_layer(known: Layer, plans: Sequence[WheelPlan], layout: Layout, progress: Progress) -> bool:
    """Write the layer of ``plans``, which is ``known`` to have been made and verified before.

    Equal bytes have an equal diff_id, table of contents and contents, so only the blob is hashed: nothing is inflated.

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
            encoder = Encoder(lambda event: None)
            for chunk in gathered(encoder.encode(_pieces(plans))):
                blob.write(chunk)
                task.advance(len(chunk))
            seen = (blob.digest, encoder.toc, encoder.tar_size)
            if seen != (known.digest, known.toc, known.tar_size):
                raise _OtherBytes
    except _OtherBytes:
        return False
    return True


def check_conflicts(plans: Sequence[WheelPlan]) -> None:
    """Refuse two wheels that bring different files under one path, in one layer or in two.

    So are two paths that are one name in two Unicode forms. What the environment itself has is refused when a wheel
    is planned.

    The same file (content and mode) may come with several wheels: in one layer it is written once, and each
    layer that brings it has its own copy, so that a layer depends on its own wheels only.

    Raises:
        EnvbuildError: ``wheel-conflict``, exit 3, naming both wheels and the path.
    """
    files: dict[str, tuple[str, tuple[int, str, int], str]] = {}
    folders: dict[str, tuple[str, str]] = {}
    for plan in _ordered(plans):
        for file in plan.files:
            identity = (file.size, file.hash, file.mode)
            path, seen, owner = files.setdefault(normal(file.path), (file.path, identity, plan.file))
            if path != file.path:
                raise _conflict(path, owner, plan.file, twin=file.path)
            if seen != identity:
                raise _conflict(path, owner, plan.file)
            for folder in _parents(file.path):
                known = folders.get(normal(folder))
                if known is None:
                    folders[normal(folder)] = (folder, plan.file)
                    continue
                if known[0] != folder:
                    raise _conflict(known[0], known[1], plan.file, twin=folder)
                break
    for form in sorted(files.keys() & folders.keys()):
        raise _conflict(files[form][0], files[form][2], folders[form][1])


def _conflict(path: str, one: str, other: str, *, twin: str | None = None) -> EnvbuildError:
    """``twin`` is the same name in another Unicode form."""
    told = f"different files as /{path}"
    if twin is not None:
        told = f"one name in two Unicode forms: {'/' + path!a} and {'/' + twin!a}"
    return EnvbuildError(
        "wheel-conflict",
        f"{one} and {other} bring {told}",
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


def _pieces(plans: Sequence[WheelPlan]) -> Iterator[Folder | File]:
    """The layer's folders and files in order; those of a wheel are good while they are asked for."""
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
                    yield Folder(folder, 0o755)
                written.update(missing)
                written.add(file.path)
                content = file.content if isinstance(file, WrittenFile) else Splice(fd, plan.file, file)
                yield File(file.path, file.mode, file.size, file.sha256, content)
        finally:
            os.close(fd)


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
