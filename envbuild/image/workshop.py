"""What assembling needs of the machine, and where layers may be besides the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from envbuild.image.plan import LayerPlan
from envbuild.lock.model import Artifact, Lock
from envbuild.oci.layer import Layer
from envbuild.progress import Progress
from envbuild.sandbox import Sandbox
from envbuild.store import Store


class Elsewhere(Protocol):
    """A place besides the store where layers and compiled operators may be: a registry."""

    def layers(self, missing: Sequence[tuple[LayerPlan, Layer | None]]) -> tuple[Mapping[str, Layer], int]:
        """Those of ``missing`` that need not be made here, by name, and the bytes that came over the network.

        Each comes with what the lock says of it (``None`` before the first build). A layer that is answered is in the
        store's layout now, or the caller knows what to do without it.
        """

    def operator(self, lock: Lock) -> Artifact | None:
        """DeepSpeed's compiled wheel, brought into the store; ``None`` where it must be compiled."""

    def made(self, plan: LayerPlan, layer: Layer) -> None:
        """Hear of a layer that was made here."""

    def compiled(self, lock: Lock, wheel: Artifact) -> None:
        """Hear of the wheel that was compiled."""

    def finish(self) -> int:
        """The image is made: send what is to be kept; returns the bytes that were sent."""


class Nowhere:
    """No such place: the store is all there is."""

    def layers(self, missing: Sequence[tuple[LayerPlan, Layer | None]]) -> tuple[Mapping[str, Layer], int]:
        """None of them."""
        return {}, 0

    def operator(self, lock: Lock) -> Artifact | None:
        """None."""
        return None

    def made(self, plan: LayerPlan, layer: Layer) -> None:
        """Nothing."""

    def compiled(self, lock: Lock, wheel: Artifact) -> None:
        """Nothing."""

    def finish(self) -> int:
        """Nothing."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What assembling needs of the machine. Network and sandbox are asked for only where something is missing.

    ``fetch`` brings artifacts into the store and returns the bytes that were transferred; ``sandbox`` finds a way
    to enter a root filesystem. ``jobs`` is the number of threads and processes. ``elsewhere`` is asked before a layer
    is made.
    """

    store: Store
    progress: Progress
    jobs: int
    fetch: Callable[[Sequence[Artifact]], int]
    sandbox: Callable[[], Sandbox]
    elsewhere: Elsewhere = field(default_factory=Nowhere)
