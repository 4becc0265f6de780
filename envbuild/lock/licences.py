"""The licences that a lock remembers: taken from one lock to the next, by the hash of the file that has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from envbuild.lock.model import Artifact, Lock


def artifacts_of(lock: Lock) -> Iterator[Artifact]:
    """Every artifact of a lock: the image's, DeepSpeed's source, what compiles it, and the wheel that came out."""
    yield from lock.debian
    yield from lock.python
    if lock.native is not None:
        yield lock.native.source
        yield from lock.native.toolchain
        yield from lock.native.build
        if lock.native.wheel is not None:
            yield lock.native.wheel


def known_licences(locks: Iterable[Lock]) -> dict[str, str]:
    """Each licence that the locks remember, by its artifact's sha256; the later lock decides."""
    return {item.sha256: item.licence for lock in locks for item in artifacts_of(lock) if item.licence}


def with_licences(lock: Lock, known: Mapping[str, str]) -> Lock:
    """The lock with what is known of the licences that it lacks. Nothing else of it changes."""

    def told(item: Artifact) -> Artifact:
        found = None if item.licence else known.get(item.sha256)
        return replace(item, licence=found) if found else item

    def all_told(items: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
        return tuple(told(item) for item in items)

    native = lock.native
    if native is not None:
        native = replace(
            native,
            source=told(native.source),
            toolchain=all_told(native.toolchain),
            build=all_told(native.build),
            wheel=told(native.wheel) if native.wheel else None,
        )
    return replace(lock, debian=all_told(lock.debian), python=all_told(lock.python), native=native)
