"""Publish: blobs, config, manifest by digest, proofs, and the tag last: a cut never leaves a tag at half an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from envbuild.image.assemble import assemble
from envbuild.image.plan import plan_image
from envbuild.image.workshop import Workshop
from envbuild.lock.model import Lock
from envbuild.oci.descriptor import MANIFEST
from envbuild.oci.image import Image
from envbuild.oci.layer import Layer
from envbuild.publish.proofs import Proof, attach_proofs
from envbuild.publish.tagging import check_tag, give_tag
from envbuild.publish.target import Target, layers_there
from envbuild.publish.views import in_memory, in_other_repository, layer_blobs
from envbuild.registry.remote import Blob, Remote, Sent, push_all

_LOOKUPS = 8
"""Blobs that are asked for at once: questions are short, and the network is what they wait for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to publish where.

    Args:
        lock: names the image; it was built at least once.
        image: the lock's.
        remote: the repository.
        tag: what to name it there; ``None``: by digest only.
        move: whether a tag that means another image may be moved.
        others: repositories of the same registry; layers that they have are mounted, and not made or sent.
        proofs: makes what is attached; it is given the digest that the tag is moved away from (or ``None``).
    """

    lock: Lock
    image: Image
    remote: Remote
    tag: str | None
    move: bool
    others: Sequence[Remote]
    proofs: Callable[[str | None], Sequence[Proof]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was done. ``sent`` is by layer's digest; ``proofs`` are the referrers' digests; ``seconds`` is by stage."""

    digest: str
    tag: str | None
    moved_from: str | None
    sent: dict[str, Sent]
    bytes_sent: int
    bytes_fetched: int
    made: tuple[str, ...]
    proofs: tuple[str, ...]
    seconds: dict[str, float]


@dataclass(slots=True, kw_only=True)
class _Stages:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 3)


def publish(order: Order, workshop: Workshop) -> Published:
    """Bring the image into the repository, with its proofs, and give it its tag.

    What the registry has is neither made nor sent; a wheel layer that it lacks is streamed from the wheels. Running it
    again after a cut goes on from what arrived.

    Raises:
        EnvbuildError: exit 6, the tag exists with another digest; exit 4, the registry; exit 5, something that does not
            verify; what assembling raises.
    """
    stages, image, remote = _Stages(), order.image, order.remote
    with stages.stage("ask the registry"):
        digest = image.digest
        moved_from = check_tag(remote, order.tag, digest, move=order.move) if order.tag is not None else None
        there = layers_there(remote, image.layers, jobs=_LOOKUPS)
        holders = _holders([layer for layer in image.layers if layer.digest not in there], order.others)
    with stages.stage("make"):
        made = _make(order, there | holders.keys(), workshop)
    with stages.stage("push"):
        sent = {**_mount(order, holders, workshop), **_push(order, made.blobs, workshop)}
        config = in_memory(image.config_bytes, image.config.media_type, image.config.digest, "config")
        push_all(remote, [config], jobs=1, progress=workshop.progress)
        manifest = remote.put_manifest(image.manifest_bytes, MANIFEST)
    with stages.stage("proofs"):
        proofs = attach_proofs(remote, manifest, order.proofs(moved_from), workshop.progress)
    if order.tag is not None:
        with stages.stage("tag"):
            give_tag(remote, order.tag, image.manifest_bytes, manifest)
    return Published(
        digest=digest,
        tag=order.tag,
        moved_from=moved_from,
        sent=sent,
        bytes_sent=sum(item.bytes for item in sent.values()),
        bytes_fetched=made.fetched,
        made=made.names,
        proofs=tuple(proof.digest for proof in proofs),
        seconds=stages.seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What is to be sent, which layers were made for it, and the bytes that were fetched."""

    blobs: Sequence[Blob] = ()
    names: tuple[str, ...] = ()
    fetched: int = 0


def _make(order: Order, there: Set[str], workshop: Workshop) -> _Made:
    """Make what neither the registry nor the store has and what is no view of wheels; fetch the wheels of views."""
    lacking = [layer for layer in order.image.layers if layer.digest not in there]
    if not lacking:
        return _Made()
    elsewhere = Target(there=frozenset(there), store=workshop.store, next=workshop.elsewhere)
    built = assemble(order.lock, replace(workshop, elsewhere=elsewhere))
    operator = order.lock.native.wheel if order.lock.native else None
    plans = {plan.name: plan for plan in plan_image(order.lock, operator=operator).layers}
    blobs, fetched = layer_blobs(lacking, plans, workshop.store, workshop.fetch)
    return _Made(blobs=blobs, names=built.made, fetched=built.bytes_fetched + fetched)


def _holders(layers: Sequence[Layer], others: Sequence[Remote]) -> dict[str, Remote]:
    """Which of ``others`` has a layer, by its digest: the first that does."""
    found: dict[str, Remote] = {}
    for other in others:
        rest = [layer for layer in layers if layer.digest not in found]
        if rest:
            found |= dict.fromkeys(layers_there(other, rest, jobs=_LOOKUPS), other)
    return found


def _mount(order: Order, holders: Mapping[str, Remote], workshop: Workshop) -> dict[str, Sent]:
    """Mount what other repositories have."""
    blobs = [
        in_other_repository(layer, holders[layer.digest], workshop.store, workshop.progress)
        for layer in order.image.layers
        if layer.digest in holders
    ]
    names = list(dict.fromkeys(other.name.repository for other in holders.values()))
    return push_all(order.remote, blobs, jobs=_LOOKUPS, progress=workshop.progress, mount_from=names)


def _push(order: Order, blobs: Sequence[Blob], workshop: Workshop) -> dict[str, Sent]:
    """Send the others."""
    return push_all(order.remote, blobs, jobs=max(4, workshop.jobs), progress=workshop.progress)
