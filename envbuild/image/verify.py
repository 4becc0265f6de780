"""Build again with nothing cached, under other conditions, and compare."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from envbuild.image.assemble import assemble
from envbuild.image.workshop import Workshop
from envbuild.lock.model import Lock
from envbuild.oci.image import Image
from envbuild.oci.layer import Layer
from envbuild.oci.tar_reader import entries
from envbuild.store import Store

_MOST_PATHS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The outcome of a second build: its digest, under which conditions, and the paths that differ."""

    digest: str
    expected: str
    conditions: dict[str, str]
    differences: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether the second build gave the same image."""
        return self.digest == self.expected


def verify(lock: Lock, image: Image, workshop: Workshop) -> Verification:
    """Make ``lock``'s image again from the store's artifacts alone, and compare it with ``image``.

    Base, wheel layers, byte code and the compiled operator are all made anew, in another folder, with another
    umask, time zone and number of jobs, at the present date.

    Raises:
        EnvbuildError: what assembling raises.
    """
    store = workshop.store
    jobs = 1 if workshop.jobs > 1 else 2
    bare = replace(lock, image=None, native=replace(lock.native, wheel=None) if lock.native else None)
    locked = [*lock.debian, *lock.python]
    if lock.native is not None:
        locked += [lock.native.source, *lock.native.toolchain, *lock.native.build]
    locked = list({artifact.sha256: artifact for artifact in locked}.values())
    missing = [a for a in locked if not store.has(a.sha256, a.size)]
    if missing:
        workshop.fetch(missing)
    with store.scratch("verify") as folder, _other_conditions() as conditions:
        second = Store.open(folder / "a second store")
        for artifact in locked:
            target = second.artifact(artifact.sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(store.artifact(artifact.sha256), target)
        try:
            built = assemble(bare, replace(workshop, store=second, jobs=jobs))
            same = built.image.digest == image.digest
            different = () if same else tuple(differences(image, built.image, store, second))
        finally:
            _remove_roots(second, workshop)
    return Verification(
        digest=built.image.digest,
        expected=image.digest,
        conditions={**conditions, "jobs": str(jobs), "folder": "another"},
        differences=different,
        seconds=built.seconds,
    )


def _remove_roots(store: Store, workshop: Workshop) -> None:
    """Unpacked roots belong to the sandbox's users; only it can remove them."""
    for root in sorted(store.roots.iterdir()) if store.roots.is_dir() else []:
        workshop.sandbox().remove(root)


@contextmanager
def _other_conditions() -> Iterator[dict[str, str]]:
    """Another umask and time zone than the caller's, for the time of a build."""
    mask = os.umask(0)
    other = 0o077 if mask != 0o077 else 0o002
    os.umask(other)
    zone = os.environ.get("TZ")
    os.environ["TZ"] = "Pacific/Chatham" if zone != "Pacific/Chatham" else "UTC"
    time.tzset()
    try:
        yield {"umask": f"{other:03o}", "TZ": os.environ["TZ"], "date": time.strftime("%Y-%m-%d")}
    finally:
        os.umask(mask)
        if zone is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = zone
        time.tzset()


def differences(first: Image, second: Image, first_store: Store, second_store: Store) -> Iterator[str]:
    """What differs, as ``layer: path: what``, at most fifty lines a layer."""
    others = {layer.name: layer for layer in second.layers}
    for layer in first.layers:
        other = others.pop(layer.name, None)
        if other is None:
            yield f"{layer.name}: only in the first image"
        elif other.diff_id != layer.diff_id:
            before = _members(first_store, layer)
            after = _members(second_store, other)
            paths = sorted(
                path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
            )
            yield from (
                f"{layer.name}: {path}: {_what(before.get(path), after.get(path))}"
                for path in paths[:_MOST_PATHS]
            )
            if len(paths) > _MOST_PATHS:
                yield f"{layer.name}: {len(paths) - _MOST_PATHS} more paths"
        elif other.digest != layer.digest:
            yield f"{layer.name}: same files, other compression"
    yield from (f"{name}: only in the second image" for name in others)
    if not any(True for _ in others) and first.config_bytes != second.config_bytes:
        yield "config: differs"


def _what(before: tuple[str, str] | None, after: tuple[str, str] | None) -> str:
    if before is None or after is None:
        return "only in one of them"
    return "content" if before[1] != after[1] else f"{before[0]} became {after[0]}"


def _members(store: Store, layer: Layer) -> dict[str, tuple[str, str]]:
    """Every path of a layer with its metadata and content hash."""
    found: dict[str, tuple[str, str]] = {}
    blob: Path = store.layout.path(layer.digest)
    with gzip.open(blob, "rb") as stream:
        for member, data in entries(stream):
            content = hashlib.sha256()
            while data is not None and (chunk := data.read(1 << 20)):
                content.update(chunk)
            meta = (
                f"{member.type!r} {member.mode:o} {member.uid}:{member.gid} {member.mtime} {member.linkname}"
            )
            found[member.name] = (meta, content.hexdigest())
    return found
