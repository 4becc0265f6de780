"""A repository as a cache of layers: what one machine made, the next one fetches.

A layer that a lock names is fetched by its digest, whoever pushed it: its content proves itself. A layer of a lock
that was never built is found by a tag made of the hash of its inputs (``layer-<key>``); what such a tag says is
believed, so whoever may write to this repository is trusted like the machine that builds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.locked import from_record, to_record
from envbuild.image.plan import LayerPlan
from envbuild.lock.model import Artifact, Lock
from envbuild.native import operator_key, take_operator
from envbuild.oci.descriptor import MANIFEST, Descriptor
from envbuild.oci.digest import canonical_json, is_digest, of_bytes
from envbuild.oci.document import read_json, read_object
from envbuild.oci.layer import Layer
from envbuild.progress import Progress
from envbuild.publish.views import in_memory, stored
from envbuild.registry.refusals import CHANGED
from envbuild.registry.remote import Blob, Remote, push_all
from envbuild.store import Store, Wanted, fetch

LAYER = "application/vnd.envbuild.cached.layer.v1"
OPERATOR = "application/vnd.envbuild.cached.operator.v1"
_EMPTY = "application/vnd.oci.empty.v1+json"
_WHEEL = "application/zip"
_FIELDS = "io.envbuild.cached"
"""The annotation with what a layer or wheel is besides its bytes, as JSON."""

_LOOKUPS = 8


@dataclass(slots=True, kw_only=True)
class LayerCache:
    """Layers and operators of one repository.

    A cache is a convenience: where the registry cannot be asked, or takes nothing, that is told once and the layers
    are made here.

    Args:
        remote: the repository.
        store: what is found comes into it.
        progress: sees fetching and pushing.
        jobs: blobs at once.
        by_key: whether tags by inputs are asked for and written; without, only digests that a lock names are read.
    """

    remote: Remote
    store: Store
    progress: Progress
    jobs: int
    by_key: bool
    _made: list[tuple[str, str, Blob, dict[str, Any]]] = field(default_factory=list)
    _off: bool = False

    def layers(self, missing: Sequence[tuple[LayerPlan, Layer | None]]) -> tuple[Mapping[str, Layer], int]:
        """Those that the repository has, brought into the store's layout."""
        with self._convenience():
            return self._layers(missing)
        return {}, 0

    def _layers(self, missing: Sequence[tuple[LayerPlan, Layer | None]]) -> tuple[Mapping[str, Layer], int]:
        if self._off:
            return {}, 0
        with ThreadPoolExecutor(max_workers=_LOOKUPS) as pool:
            answers = list(pool.map(lambda item: self._find(*item), missing))
        found = {
            plan.name: layer for (plan, _), layer in zip(missing, answers, strict=True) if layer is not None
        }
        wanted = [self._wanted(layer.name, layer.descriptor) for layer in found.values()]
        fetched = fetch(
            self.store,
            wanted,
            http=self.remote.http,
            jobs=max(4, self.jobs),
            progress=self.progress,
            place=lambda sha256: self.store.layout.path("sha256:" + sha256),
        )
        for plan, _ in missing:
            if plan.name in found:
                self.store.put_record("layer", plan.key, to_record(found[plan.name]))
        return found, fetched

    def operator(self, lock: Lock) -> Artifact | None:
        """The compiled wheel: by the lock's hash, else by its inputs' key."""
        with self._convenience():
            return None if self._off else self._operator(lock)
        return None

    def _operator(self, lock: Lock) -> Artifact | None:
        assert lock.native is not None
        known = lock.native.wheel
        if known is not None:
            found = Descriptor(media_type=_WHEEL, digest=f"sha256:{known.sha256}", size=known.size)
            file = known.file
        else:
            entry = self._entry(f"operator-{operator_key(lock)}", OPERATOR) if self.by_key else None
            if entry is None:
                return None
            found, file = entry[0], str(entry[1].get("file"))
        if not self.remote.has(found.digest, found.size):
            return None
        fetch(self.store, [self._wanted(file, found)], http=self.remote.http, jobs=1, progress=self.progress)
        return take_operator(lock, file, found.digest.removeprefix("sha256:"), store=self.store)

    def made(self, plan: LayerPlan, layer: Layer) -> None:
        """Keep in mind that the layer is to be pushed."""
        if self.by_key and self.store.layout.has(layer.digest, layer.size):
            blob = Blob(
                descriptor=layer.descriptor,
                name=layer.name,
                chunks=stored(self.store.layout.path(layer.digest)),
            )
            self._made.append((f"layer-{plan.key}", LAYER, blob, to_record(layer)))

    def compiled(self, lock: Lock, wheel: Artifact) -> None:
        """Keep in mind that the wheel is to be pushed."""
        if self.by_key:
            descriptor = Descriptor(media_type=_WHEEL, digest=f"sha256:{wheel.sha256}", size=wheel.size)
            blob = Blob(
                descriptor=descriptor,
                name=wheel.basename,
                chunks=stored(self.store.artifact(wheel.sha256)),
            )
            self._made.append((f"operator-{operator_key(lock)}", OPERATOR, blob, {"file": wheel.file}))

    def finish(self) -> int:
        """Push what was made here since; returns the bytes that were sent."""
        made, self._made = self._made, []
        with self._convenience():
            return self._push(made) if made and not self._off else 0
        return 0

    def _push(self, made: Sequence[tuple[str, str, Blob, dict[str, Any]]]) -> int:
        empty = in_memory(b"{}", _EMPTY, of_bytes(b"{}"), "empty config")
        sent = push_all(
            self.remote,
            [empty, *(blob for _, _, blob, _ in made)],
            jobs=max(4, self.jobs),
            progress=self.progress,
            mount_from=(),
        )
        for tag, artifact_type, blob, fields in made:
            value = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": artifact_type,
                "config": empty.descriptor.to_dict(),
                "layers": [blob.descriptor.to_dict()],
                "annotations": {_FIELDS: canonical_json(fields).decode()},
            }
            self.remote.put_manifest(canonical_json(value), MANIFEST, tag=tag)
        return sum(item.bytes for item in sent.values())

    @contextmanager
    def _convenience(self) -> Iterator[None]:
        """Without this cache where the network fails; anything else that is wrong is raised."""
        try:
            yield
        except EnvbuildError as error:
            if error.exit is not Exit.NETWORK:
                raise
            self._off = True
            self.progress.note(f"without the layers of {self.remote.name}: {error.message}")

    def _find(self, plan: LayerPlan, known: Layer | None) -> Layer | None:
        if known is not None:
            return known if self.remote.has(known.digest, known.size) else None
        entry = self._entry(f"layer-{plan.key}", LAYER) if self.by_key else None
        if entry is None or not self.remote.has(entry[0].digest, entry[0].size):
            return None
        try:
            found = from_record(plan.name, entry[1])
        except (KeyError, TypeError, ValueError):
            return None
        return found if (found.digest, found.size) == (entry[0].digest, entry[0].size) else None

    def _entry(self, tag: str, artifact_type: str) -> tuple[Descriptor, dict[str, Any]] | None:
        """What a tag of the cache names: the blob, and what its annotation says. Malformed counts as nothing."""
        if self.remote.head(tag) is None:
            return None
        data, _ = self.remote.manifest(tag)
        try:
            value = read_object(data)
            [blob] = value["layers"]
            fields = read_json(value["annotations"][_FIELDS])
            descriptor = Descriptor(
                media_type=str(blob["mediaType"]), digest=str(blob["digest"]), size=int(blob["size"])
            )
        except (ValueError, KeyError, TypeError):
            return None
        sound = value.get("artifactType") == artifact_type and is_digest(descriptor.digest)
        return (descriptor, fields) if sound and isinstance(fields, dict) else None

    def _wanted(self, name: str, descriptor: Descriptor) -> Wanted:
        return Wanted(
            name=name,
            file=descriptor.digest,
            sha256=descriptor.digest.removeprefix("sha256:"),
            size=descriptor.size,
            sources=(self.remote.source(descriptor.digest),),
            changed=CHANGED,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Several caches, asked in order; what is made is told to all of them."""

    places: tuple[LayerCache, ...]

    def layers(self, missing: Sequence[tuple[LayerPlan, Layer | None]]) -> tuple[Mapping[str, Layer], int]:
        """Each layer from the first place that has it."""
        found: dict[str, Layer] = {}
        total = 0
        for place in self.places:
            rest = [(plan, known) for plan, known in missing if plan.name not in found]
            more, fetched = place.layers(rest) if rest else ({}, 0)
            found |= more
            total += fetched
        return found, total

    def operator(self, lock: Lock) -> Artifact | None:
        """From the first place that has it."""
        return next((wheel for place in self.places if (wheel := place.operator(lock)) is not None), None)

    def made(self, plan: LayerPlan, layer: Layer) -> None:
        """Tell each."""
        for place in self.places:
            place.made(plan, layer)

    def compiled(self, lock: Lock, wheel: Artifact) -> None:
        """Tell each."""
        for place in self.places:
            place.compiled(lock, wheel)

    def finish(self) -> int:
        """Push what was made."""
        return sum(place.finish() for place in self.places)
