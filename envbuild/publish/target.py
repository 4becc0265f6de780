"""The registry that an image goes to, as a place that already has some of its layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from envbuild.image.plan import LayerPlan
from envbuild.image.workshop import Elsewhere
from envbuild.lock.model import Artifact, Lock
from envbuild.oci.layer import Layer
from envbuild.publish.views import is_view
from envbuild.registry.remote import Remote
from envbuild.store import Store


def layers_there(remote: Remote, layers: Iterable[Layer], *, jobs: int) -> frozenset[str]:
    """The digests of those of ``layers`` that the repository has."""
    asked = {layer.digest: layer.size for layer in layers}
    with ThreadPoolExecutor(max_workers=max(1, min(jobs, len(asked)))) as pool:
        answers = pool.map(lambda item: remote.has(*item), asked.items())
        return frozenset(digest for digest, there in zip(asked, answers, strict=True) if there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What assembling need not make for an image that is published: what is there, and what is streamed from wheels.

    ``there`` are the digests that the registry has; ``next`` is asked for the rest (a layer cache).
    """

    there: frozenset[str]
    store: Store
    next: Elsewhere

    def layers(self, missing: Sequence[tuple[LayerPlan, Layer | None]]) -> tuple[Mapping[str, Layer], int]:
        """Layers that the lock names and that the registry has, or that are views of their wheels."""
        found = {
            plan.name: known
            for plan, known in missing
            if known is not None and (known.digest in self.there or is_view(plan, self.store))
        }
        rest = [(plan, known) for plan, known in missing if plan.name not in found]
        more, fetched = self.next.layers(rest) if rest else ({}, 0)
        return {**found, **more}, fetched

    def operator(self, lock: Lock) -> Artifact | None:
        """The cache's."""
        return self.next.operator(lock)

    def made(self, plan: LayerPlan, layer: Layer) -> None:
        """Told to the cache."""
        self.next.made(plan, layer)

    def compiled(self, lock: Lock, wheel: Artifact) -> None:
        """Told to the cache."""
        self.next.compiled(lock, wheel)

    def finish(self) -> int:
        """The cache's pushing."""
        return self.next.finish()
