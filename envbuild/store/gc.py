"""Garbage collection: remove what no name, no lock and no running process needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from envbuild.oci.digest import is_digest, is_sha256, of_bytes, of_file, open_regular, read_regular
from envbuild.oci.disk import guarded, try_lock
from envbuild.oci.document import read_json, read_object
from envbuild.oci.layout import Layout
from envbuild.oci.trees import folder_size, remove_tree
from envbuild.progress import Progress, Task
from envbuild.store.store import Store

_HEX = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[0-9a-f]{64}(\.[a-z]+)?")
_ROOT = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.[0-9a-f]{8}")
_MANIFEST_LIMIT = 4 << 20
_RECORD_LIMIT = 64 << 20


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
    Records that mention something removed go as well, and so do unfinished downloads that nobody keeps. What an image
    needs cannot be known where its manifest is lost or damaged: that is said, and then all blobs and roots stay. Files
    of names that envbuild does not give stay, too. Waits until no other process uses the store.

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
        reached = _reachable(store.layout, keep.digests, progress.note)
        roots = {_bare(digest) for digest in (*keep.roots, *reached.diff_ids)}
        kept = {_bare(digest) for digest in reached.blobs} | {_bare(sha256) for sha256 in keep.artifacts}
        kept |= _derived(store.root / "cache", kept)
        if reached.unsure:
            kept |= {path.name for path in _entries(store.layout.blob_folder)}
            roots |= {path.name for path in _entries(store.roots)}
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
    for path in _records(cache):
        with suppress(OSError, ValueError):
            record = read_json(read_regular(path, _RECORD_LIMIT))
            if isinstance(record, dict) and is_sha256(record.get("of")) and record["of"] in kept:
                found.update(text for text in [record.get("sha256")] if is_sha256(text))
    return found


def _records(cache: Path) -> list[Path]:
    """The records; what else lies there (a folder of the conda solver) is none."""
    return [path for kind in _entries(cache) if kind.is_dir() for path in _entries(kind) if path.is_file()]


def _remove_files(folder: Path, kept: set[str], task: Task) -> tuple[set[str], int]:
    """Remove the files whose name up to the first dot is not in ``kept``; their names, and the bytes."""
    names: set[str] = set()
    freed = 0
    for path in _entries(folder):
        task.advance(1)
        if path.name.split(".")[0] not in kept and _FILE.fullmatch(path.name) and not path.is_dir():
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
        if path.name not in kept and _ROOT.fullmatch(path.name):
            freed += folder_size(path)
            with guarded(path):
                remove(path)
            count += 1
    return count, freed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reached:
    """The digests of all blobs that are needed, the diff_ids of their layers, and whether there may be more."""

    blobs: set[str]
    diff_ids: set[str]
    unsure: bool


def _reachable(layout: Layout, kept: Iterable[str], say: Callable[[str], None]) -> _Reached:
    """What names and ``kept`` lead to."""
    blobs: set[str] = set()
    diff_ids: set[str] = set()
    unsure = False
    pending: list[tuple[str, bool]] = [(digest, False) for digest in kept]
    for name, descriptor in layout.tags().items():
        pending.append((descriptor.digest, True))
        if not layout.has(descriptor.digest):
            unsure = True
            say(
                f"the manifest of {name} is not there, so all blobs stay: `envbuild gc --forget {name}` lets go of it"
            )
    while pending:
        digest, sure = pending.pop()
        if digest in blobs:
            continue
        blobs.add(digest)
        value = _document(layout, digest, whole=sure)
        if value is None:
            unsure = True
            say(
                f"{digest} is damaged, so all blobs stay: pull or build its image again, or let go of its name "
                "(`envbuild gc --forget NAME`)"
            )
            continue
        found, strange = _named(value)
        pending += found
        diff_ids.update(_diff_ids(value))
        if strange:
            say(
                f"{digest} names {strange[0][:80]!r}, which is no sha256 digest: nothing in the store is meant"
            )
    return _Reached(blobs=blobs, diff_ids=diff_ids, unsure=unsure)


def _named(value: Mapping[str, object]) -> tuple[list[tuple[str, bool]], list[str]]:
    """The digests that a document names, each with whether it must be a document, and what is none."""
    entries: list[tuple[object, bool]] = []
    for key in ("manifests", "layers", "blobs"):
        listed = value.get(key)
        entries += [(entry, key == "manifests") for entry in (listed if isinstance(listed, list) else ())]
    entries += [(value[key], True) for key in ("config", "subject") if key in value]
    found: list[tuple[str, bool]] = []
    strange: list[str] = []
    for entry, document in entries:
        digest = entry.get("digest") if isinstance(entry, dict) else None
        if is_digest(digest):
            found.append((str(digest), document))
        elif digest is not None:
            strange.append(str(digest))
    return found, strange


def _diff_ids(value: Mapping[str, object]) -> set[str]:
    rootfs = value.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return {item for item in (found if isinstance(found, list) else ()) if is_digest(item)}


def _document(layout: Layout, digest: str, *, whole: bool) -> dict[str, object] | None:
    """A manifest, index or config; empty where it is something else (a layer) or not there.

    ``None`` where its content is not what the digest says: what it led to cannot be known. Of what need not be a
    document (``whole``) only the first byte is read, where that is not a document's. Empty, too, for a sound blob that
    is larger than any document: a hostile image may name its own layer as one.
    """
    path = layout.path(digest)
    if not layout.has(digest):
        return {}
    with guarded(path), open_regular(path) as stream:
        data = stream.read(1)
        if whole or data == b"{":
            data += stream.read(_MANIFEST_LIMIT)
        sound = of_bytes(data) == digest
        if whole and not sound:
            return {} if stream.read(1) and of_file(path) == digest else None
    if not sound:
        return {}
    try:
        return read_object(data)
    except ValueError:
        return {}


def _bare(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _entries(folder: Path) -> list[Path]:
    with guarded(folder):
        return sorted(folder.iterdir())


def _forget(cache: Path, gone: set[str]) -> int:
    """Remove the records that mention something in ``gone``."""
    count = 0
    for path in _records(cache):
        with guarded(path):
            text = path.name + path.read_text("utf-8", errors="replace")
            if gone.intersection(_HEX.findall(text)):
                path.unlink()
                count += 1
    return count


def _drop_locks(folder: Path) -> None:
    """Remove the lock files of processes that were killed."""
    for path in _entries(folder):
        if path.name != "use.lock" and path.suffix == ".lock" and path.is_file():
            with guarded(path):
                lock = try_lock(path, create=False)
            if lock is not None:
                lock.release(remove=True)
