"""Garbage collection: remove what no name, no lock and no running process needs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from envbuild.oci.digest import of_bytes
from envbuild.oci.disk import guarded, try_lock
from envbuild.oci.layout import Layout
from envbuild.oci.trees import folder_size, remove_tree
from envbuild.progress import Progress, Task
from envbuild.store.store import Store

_HEX = re.compile(r"[0-9a-f]{64}")
_MANIFEST_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What locks name: ``digests`` of manifests and blobs, ``roots`` by diff_id, ``artifacts`` by sha256 (hex)."""

    digests: frozenset[str] = frozenset()
    roots: frozenset[str] = frozenset()
    artifacts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What was removed: how many of each, and the bytes of all."""

    artifacts: int
    blobs: int
    roots: int
    records: int
    bytes: int

    def to_dict(self) -> dict[str, int]:
        """For ``--json``."""
        return {
            "artifacts": self.artifacts,
            "blobs": self.blobs,
            "roots": self.roots,
            "records": self.records,
            "bytes": self.bytes,
        }


def collect(
    store: Store, keep: Keep, *, progress: Progress, remove_root: Callable[[Path], None] = remove_tree
) -> Freed:
    """Remove from ``store`` what neither ``keep`` nor an image name in the layout needs.

    Images named in ``oci/index.json`` are kept whole: manifest, config, layers, and the roots of those layers.
    Records that mention something removed go as well, and so do unfinished downloads that nobody keeps. Waits
    until no other process uses the store.

    Args:
        store: the store.
        keep: what locks name.
        progress: one task, in entries looked at.
        remove_root: removes a folder whose files may have the sandbox's ids.

    Raises:
        EnvbuildError: something cannot be removed, or ``oci/index.json`` cannot be read.
    """
    with store.alone(progress), progress.task("gc", unit="entries") as task:
        store.sweep()
        blobs, diff_ids = _reachable(store.layout, keep.digests)
        roots = {_bare(digest) for digest in (*keep.roots, *diff_ids)}
        kept = {_bare(digest) for digest in blobs} | {_bare(sha256) for sha256 in keep.artifacts}
        kept |= _derived(store.root / "cache", kept)
        blob_names, blob_bytes = _remove_files(store.layout.blob_folder, kept, task)
        names, artifact_bytes = _remove_files(store.root / "artifacts" / "sha256", kept, task)
        _, partial_bytes = _remove_files(store.partial, kept, task)
        root_count, root_bytes = _remove_roots(store.roots, roots, remove_root, task)
        records = _forget(store.root / "cache", blob_names | names)
        _drop_locks(store.root / "locks")
        return Freed(
            artifacts=len(names),
            blobs=len(blob_names),
            roots=root_count,
            records=records,
            bytes=blob_bytes + artifact_bytes + partial_bytes + root_bytes,
        )


def _derived(cache: Path, kept: set[str]) -> set[str]:
    """What was made of a kept artifact: the ``sha256`` of each record whose ``of`` is kept."""
    found: set[str] = set()
    for kind in _entries(cache):
        for path in _entries(kind):
            with suppress(OSError, ValueError):
                record = json.loads(path.read_bytes())
                if (
                    isinstance(record, dict)
                    and record.get("of") in kept
                    and isinstance(record.get("sha256"), str)
                ):
                    found.add(record["sha256"])
    return found


def _remove_files(folder: Path, kept: set[str], task: Task) -> tuple[set[str], int]:
    """Remove the files whose name up to the first dot is not in ``kept``; their names, and the bytes."""
    names: set[str] = set()
    freed = 0
    for path in _entries(folder):
        task.advance(1)
        if path.name.split(".")[0] not in kept:
            with guarded(path):
                freed += path.stat().st_size
                path.unlink()
            names.add(path.name)
    return names, freed


def _remove_roots(
    folder: Path, kept: set[str], remove: Callable[[Path], None], task: Task
) -> tuple[int, int]:
    """Remove the roots that are not in ``kept``; how many, and the bytes."""
    count = freed = 0
    for path in _entries(folder):
        task.advance(1)
        if path.name not in kept:
            freed += folder_size(path)
            with guarded(path):
                remove(path)
            count += 1
    return count, freed


def _reachable(layout: Layout, kept: Iterable[str]) -> tuple[set[str], set[str]]:
    """The digests of all blobs that names and ``kept`` lead to, and the diff_ids of their layers."""
    blobs: set[str] = set()
    diff_ids: set[str] = set()
    pending = [descriptor.digest for descriptor in layout.tags().values()] + list(kept)
    while pending:
        digest = pending.pop()
        if digest in blobs:
            continue
        blobs.add(digest)
        value = _document(layout, digest)
        for key in ("manifests", "layers", "blobs"):
            entries = value.get(key)
            pending += [_digest(entry) for entry in entries] if isinstance(entries, list) else []
        for key in ("config", "subject"):
            pending += [_digest(value[key])] if isinstance(value.get(key), dict) else []
        rootfs = value.get("rootfs")
        found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        diff_ids.update(item for item in found or () if isinstance(item, str))
        pending = [item for item in pending if item]
    return blobs, diff_ids


def _document(layout: Layout, digest: str) -> dict[str, object]:
    """A manifest, index or config; anything else (a layer) gives an empty one."""
    path = layout.path(digest)
    if not layout.has(digest):
        return {}
    with guarded(path), path.open("rb") as stream:
        data = stream.read(1)
        if data == b"{":
            data += stream.read(_MANIFEST_LIMIT)
    if of_bytes(data) != digest:
        return {}
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _digest(entry: object) -> str:
    digest = entry.get("digest") if isinstance(entry, dict) else None
    return digest if isinstance(digest, str) and digest.startswith("sha256:") else ""


def _bare(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _entries(folder: Path) -> list[Path]:
    with guarded(folder):
        return sorted(folder.iterdir())


def _forget(cache: Path, gone: set[str]) -> int:
    """Remove the records that mention something in ``gone``."""
    count = 0
    for kind in _entries(cache):
        for path in _entries(kind):
            if path.is_dir():
                continue  # no record: what the conda solver keeps of a channel
            with guarded(path):
                text = path.name + path.read_text("utf-8", errors="replace")
                if gone.intersection(_HEX.findall(text)):
                    path.unlink()
                    count += 1
    return count


def _drop_locks(folder: Path) -> None:
    """Remove the lock files of processes that were killed."""
    for path in _entries(folder):
        if path.name != "use.lock":
            with guarded(path):
                lock = try_lock(path, create=False)
            if lock is not None:
                lock.release(remove=True)
