"""Where a layer's bytes come from when they are sent: a blob of the store, or the wheels that the layer is a view of.

A wheel layer need not be stored: it is byte ranges of its wheels and glue (docs/explanation/layers.md), and is streamed
from them whenever it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.plan import LayerPlan
from envbuild.layers.splice import check_conflicts, layer_chunks
from envbuild.layers.wheel import WheelPlan, plan_wheel
from envbuild.lock.model import Artifact
from envbuild.oci.descriptor import Descriptor
from envbuild.oci.digest import CHUNK
from envbuild.oci.layer import Layer
from envbuild.progress import Progress
from envbuild.registry.remote import Blob, Remote
from envbuild.store import Store, Wanted, fetch

Bring = Callable[[Sequence[Artifact]], int]


def is_view(plan: LayerPlan, store: Store) -> bool:
    """Whether the layer can be streamed without having been made: of wheels that an index or the store has."""
    built = [a for a in plan.artifacts if a.index == "built"]
    return plan.kind == "wheels" and all(store.has(a.sha256, a.size) for a in built)


def layer_blobs(
    layers: Sequence[Layer], plans: Mapping[str, LayerPlan], store: Store, bring: Bring
) -> tuple[list[Blob], int]:
    """What sends each of ``layers``; the wheels of those that the store has no blob of are fetched first.

    Args:
        layers: what is to be sent.
        plans: the plan of each layer by name.
        store: has the blobs, or the wheels after ``bring``.
        bring: brings artifacts into the store, and returns the bytes that came.

    Returns:
        One blob a layer, and the bytes that were fetched.

    Raises:
        EnvbuildError: as of fetching; exit 3 or 5, a wheel that cannot be a layer; exit 5, a layer that can be neither
            read nor streamed.
    """
    lacking = [layer for layer in layers if not store.layout.has(layer.digest, layer.size)]
    for layer in lacking:
        if not is_view(plans[layer.name], store):
            raise EnvbuildError(
                "blob-lost",
                f"the layer {layer.name} ({layer.digest}) is not in the store",
                hint="run `envbuild image` again: it is made anew",
                exit=Exit.VERIFY,
                where=layer.digest,
            )
    artifacts = {a.sha256: a for layer in lacking for a in plans[layer.name].artifacts}
    missing = [a for a in artifacts.values() if not store.has(a.sha256, a.size)]
    fetched = bring(missing) if missing else 0
    wheels = {
        sha: plan_wheel(store.artifact(sha), file=a.basename, sha256=sha) for sha, a in artifacts.items()
    }
    check_conflicts(list(wheels.values()))
    made = []
    for layer in layers:
        if store.layout.has(layer.digest, layer.size):
            chunks = stored(store.layout.path(layer.digest))
        else:
            chunks = _view([wheels[a.sha256] for a in plans[layer.name].artifacts])
        made.append(Blob(descriptor=layer.descriptor, name=layer.name, chunks=chunks))
    return made, fetched


def stored(path: Path) -> Callable[[int], Iterator[bytes]]:
    """A file's bytes from an offset on."""

    def chunks(offset: int) -> Iterator[bytes]:
        with path.open("rb") as stream:
            stream.seek(offset)
            while chunk := stream.read(CHUNK):
                yield chunk

    return chunks


def in_other_repository(layer: Layer, other: Remote, store: Store, progress: Progress) -> Blob:
    """A layer that another repository of the same registry has: mounted, and fetched only where that is refused."""

    def chunks(offset: int) -> Iterator[bytes]:
        wanted = Wanted(
            name=layer.name,
            file=layer.digest,
            sha256=layer.digest.removeprefix("sha256:"),
            size=layer.size,
            sources=(other.source(layer.digest),),
        )
        path = store.layout.path(layer.digest)
        fetch(store, [wanted], http=other.http, jobs=1, progress=progress, place=lambda _: path)
        return stored(path)(offset)

    return Blob(descriptor=layer.descriptor, name=layer.name, chunks=chunks)


def in_memory(data: bytes, media_type: str, digest: str, name: str) -> Blob:
    """A small blob."""
    descriptor = Descriptor(media_type=media_type, digest=digest, size=len(data))
    return Blob(
        descriptor=descriptor, name=name, chunks=lambda offset: iter([data[offset:]] if data[offset:] else [])
    )


def _view(wheels: Sequence[WheelPlan]) -> Callable[[int], Iterator[bytes]]:
    """The layer's bytes, spliced while they are asked for; what lies before the offset is made and dropped."""

    def chunks(offset: int) -> Iterator[bytes]:
        for chunk in layer_chunks(wheels):
            if offset >= len(chunk):
                offset -= len(chunk)
                continue
            yield chunk[offset:] if offset else chunk
            offset = 0

    return chunks
