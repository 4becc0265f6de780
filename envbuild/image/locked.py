"""What a lock says its image is, and what the store already has of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.plan import LayerPlan, plan_image
from envbuild.layers.files import files_diff_id
from envbuild.lock.model import Lock
from envbuild.oci.digest import Digest
from envbuild.oci.image import Image
from envbuild.oci.layer import Layer
from envbuild.sandbox.unpack import root_name
from envbuild.store import Store


def image_of(lock: Lock) -> Image | None:
    """The image that a built lock names, as a value; ``None`` when the lock was never built.

    Raises:
        EnvbuildError: exit 5 when the lock's own parts contradict each other.
    """
    if lock.image is None or (lock.native is not None and lock.native.wheel is None):
        return None
    plan = plan_image(lock, operator=lock.native.wheel if lock.native else None)
    for layer in lock.image.layers:
        written = next((p for p in plan.layers if p.kind == "files" and p.name == layer.name), None)
        if written is not None and files_diff_id(written.files) != layer.diff_id:
            raise _contradiction(lock, f"its layer {layer.name} is not what this envbuild writes")
    image = Image(layers=lock.image.layers, run=plan.run, created=plan.created, annotations=plan.annotations)
    if (image.digest, image.config.digest) != (lock.image.digest, lock.image.config):
        raise _contradiction(lock, f"its inputs and layers give {image.digest}")
    return image


def _contradiction(lock: Lock, what: str) -> EnvbuildError:
    digest = lock.image.digest if lock.image else "no image"
    return EnvbuildError(
        "lock-contradicts-itself",
        f"the lock names the image {digest}, but {what}",
        where="$.image.digest",
        hint=f"the lock was edited, or made by another envbuild: run `envbuild lock {lock.ref}`",
        exit=Exit.VERIFY,
    )


def locked_image(lock: Lock, store: Store) -> Image | None:
    """The lock's image, if the store has all of its blobs."""
    image = image_of(lock)
    if image is None:
        return None
    layout = store.layout
    blobs = [image.manifest, image.config, *(layer.descriptor for layer in image.layers)]
    return image if all(layout.has(blob.digest, blob.size) for blob in blobs) else None


def unpacked_image(lock: Lock, store: Store) -> Image | None:
    """The lock's image, if the store has it at least unpacked: enough to run it, with the bare runtime or the sandbox.

    What `envbuild unbundle` leaves: manifest, config and unpacked layers, and no blobs of layers.
    """
    image = image_of(lock)
    if image is None or not all(
        store.layout.has(blob.digest, blob.size) for blob in (image.manifest, image.config)
    ):
        return None
    whole = all(
        (store.roots / root_name([layer.diff_id])).is_dir() or store.layout.has(layer.digest, layer.size)
        for layer in image.layers
    )
    return image if whole else None


def recorded(layer: LayerPlan, store: Store) -> Layer | None:
    """The layer that an earlier run made of the same inputs, if its blob is still there."""
    record = store.record("layer", layer.key)
    if record is None:
        return None
    try:
        known = from_record(layer.name, record)
    except (KeyError, ValueError):
        return None  # as good as no record: the layer is made again
    found = replace(known, artifacts=tuple(a.name for a in layer.artifacts))
    return found if store.layout.has(found.digest, found.size) else None


def from_record(name: str, record: Mapping[str, object]) -> Layer:
    """The inverse of :func:`to_record`, without the names of what is in the layer.

    Raises:
        KeyError, ValueError: it is no such record.
    """
    return Layer(
        name=name,
        digest=str(Digest(record["digest"])),
        diff_id=str(Digest(record["diff_id"])),
        size=int(str(record["size"])),
        toc=None if record.get("toc") is None else str(Digest(record["toc"])),
        tar_size=None if record.get("tar_size") is None else int(str(record["tar_size"])),
    )


def to_record(layer: Layer) -> dict[str, object]:
    """What the store, and a layer cache, remember of a layer that was made."""
    known = {"digest": layer.digest, "diff_id": layer.diff_id, "size": layer.size}
    lazy = {"toc": layer.toc, "tar_size": layer.tar_size}
    return {**known, **{name: value for name, value in lazy.items() if value is not None}}


def compare(lock: Lock, image: Image) -> None:
    """Refuse an image that is not the one the lock names."""
    expected = lock.image
    if expected is None or expected.digest == image.digest:
        return
    before = {layer.name: layer.diff_id for layer in expected.layers}
    after = {layer.name: layer.diff_id for layer in image.layers}
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    what = f"layers that differ: {', '.join(changed)}" if changed else "the layers agree, the config does not"
    raise EnvbuildError(
        "digest-differs",
        f"{lock.ref} was built as {image.digest}; the lock says {expected.digest}; {what}",
        where="$.image.digest",
        hint="the same lock must give the same bytes: please report it; "
        f"`envbuild lock {lock.ref} --forget-built` accepts the new image",
        exit=Exit.VERIFY,
    )
