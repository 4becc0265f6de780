"""Publish: blobs, config, manifest by digest, proofs, and the tag last: a cut never leaves a tag at half an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from envbuild.image.assemble import Workshop, assemble
from envbuild.image.plan import plan_image
from envbuild.lock.model import Lock
from envbuild.oci.descriptor import MANIFEST
from envbuild.oci.image import Image
from envbuild.publish.proofs import Proof, attach_proofs
from envbuild.publish.tagging import check_tag, give_tag
from envbuild.publish.target import Target, layers_there
from envbuild.publish.views import in_memory, layer_blobs
from envbuild.registry.remote import Remote, Sent, push_all

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
        mount_from: repositories of the same registry that may have its blobs.
        proofs: makes what is attached; it is given the digest that the tag is moved away from (or ``None``).
    """

    lock: Lock
    image: Image
    remote: Remote
    tag: str | None
    move: bool
    mount_from: Sequence[str]
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
    lacking = [layer for layer in image.layers if layer.digest not in there]
    sent: dict[str, Sent] = {}
    made: tuple[str, ...] = ()
    fetched = 0
    if lacking:
        with stages.stage("make"):
            elsewhere = Target(there=there, store=workshop.store, next=workshop.elsewhere)
            built = assemble(order.lock, replace(workshop, elsewhere=elsewhere))
            made, fetched = built.made, built.bytes_fetched
            operator = order.lock.native.wheel if order.lock.native else None
            plans = {plan.name: plan for plan in plan_image(order.lock, operator=operator).layers}
            blobs, more = layer_blobs(lacking, plans, workshop.store, workshop.fetch)
            fetched += more
        with stages.stage("push"):
            sent = push_all(
                remote,
                blobs,
                jobs=max(4, workshop.jobs),
                progress=workshop.progress,
                mount_from=order.mount_from,
            )
    with stages.stage("push"):
        config = in_memory(image.config_bytes, image.config.media_type, image.config.digest, "config")
        push_all(remote, [config], jobs=1, progress=workshop.progress, mount_from=())
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
        bytes_fetched=fetched,
        made=made,
        proofs=tuple(proof.digest for proof in proofs),
        seconds=stages.seconds,
    )
