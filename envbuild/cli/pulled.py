"""Images of a registry as commands use them: pulled into the store, with the lock that came with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from envbuild.cli.context import Context
from envbuild.cli.proof import choose_engine
from envbuild.cli.registries import remote_of
from envbuild.engine import Engine, ImageRef
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import Subject, expect, subject_of
from envbuild.image.locked import image_of
from envbuild.lock import Lock, asked_recipe, parse_lock
from envbuild.publish.proofs import LOCK, Proof, read_proofs
from envbuild.publish.remote_image import RemoteImage, read_image
from envbuild.publish.tagging import give_tag
from envbuild.recipe import Recipe
from envbuild.registry import pull_image
from envbuild.registry.reference import ImageName, parse_image_name
from envbuild.registry.remote import Remote
from envbuild.sandbox.unpack import root_name
from envbuild.smoke.model import Expectations
from envbuild.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image in a registry, with what is attached to it. No layer was fetched."""

    name: ImageName
    remote: Remote
    image: RemoteImage
    proofs: tuple[Proof, ...]

    @property
    def pinned(self) -> str:
        """``REGISTRY/REPO@sha256:…``."""
        return f"{self.name.repository}@{self.image.digest}"

    def lock(self) -> Lock:
        """The attached lock that gives this very image.

        Raises:
            EnvbuildError: exit 3, none is attached; exit 5, what is attached gives another image.
        """
        locks = [proof for proof in self.proofs if proof.artifact_type == LOCK]
        if not locks:
            raise EnvbuildError(
                "no-lock-attached",
                f"{self.pinned} has no lock attached: it was not published by envbuild",
                where=self.pinned,
                hint="`envbuild publish REF REGISTRY/REPO` attaches it; `envbuild verify` says what there is",
                exit=Exit.INPUT,
            )
        for proof in locks:
            lock = parse_lock(proof.data, Path(self.pinned))
            image = image_of(lock)
            if image is not None and image.digest == self.image.digest:
                return lock
        raise EnvbuildError(
            "lock-of-another-image",
            f"the lock that is attached to {self.pinned} gives another image",
            where=self.pinned,
            hint="publish it again from the lock that it was built from; do not trust it until then",
            exit=Exit.VERIFY,
        )


def find(context: Context, text: str, *, proofs: bool = True, of_index: bool = False) -> Found:
    """Look an image up by ``REGISTRY/REPO:TAG`` or ``REGISTRY/REPO@sha256:…``.

    Args:
        context: the call.
        text: the name.
        proofs: whether to read what is attached.
        of_index: whether an index may stand for its image for linux/amd64, as where it is to be run.

    Raises:
        EnvbuildError: exit 2, no such name; exit 4, not there; exit 5, wrong bytes; exit 3, no image.
    """
    name = parse_image_name(text)
    remote = remote_of(context, name.repository)
    image = read_image(remote, name.reference, of_index=of_index)
    attached = read_proofs(remote, image.digest) if proofs else ()
    return Found(name=name, remote=remote, image=image, proofs=tuple(attached))


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledReady:
    """A pulled image that envbuild published: what the gate needs of it (``Candidate``)."""

    found: Found
    recipe: Recipe
    lock: Lock
    store: Store
    image: ImageRef

    @property
    def name(self) -> str:
        """The name that a pass gives: that of the recipe it was built from."""
        return str(self.lock.ref)

    @property
    def candidate(self) -> str:
        """Its name without a verdict."""
        return self.lock.ref.candidate

    @property
    def subject(self) -> Subject:
        """What a verdict is about."""
        image = image_of(self.lock)
        assert image is not None  # Found.lock gives no other
        return subject_of(self.name, image)

    def expected(self, *, gpus_given: int | None = None) -> Expectations:
        """What the suite must find in it."""
        return expect(self.recipe, self.lock, gpus_given=gpus_given)

    def give(self, context: Context, tag: str) -> None:
        """Name it in its registry."""
        del context
        give_tag(self.found.remote, tag.rpartition(":")[2], self.found.image.data, self.found.image.manifest)


def bring(context: Context, found: Found, store: Store) -> tuple[ImageRef, int]:
    """Bring the image into the store, every blob verified, named as the registry has it; also the bytes that came.

    Layers that the store has unpacked already, by their diff_id, are not fetched.

    Raises:
        EnvbuildError: exit 4, the registry fails; exit 5, wrong bytes; exit 2, the store.
    """
    environ = context.settings.environ
    pulled = pull_image(
        found.pinned,
        store=store,
        http=found.remote.http,
        environ=environ,
        jobs=max(4, context.settings.jobs),
        progress=context.terminal.progress,
        has_layer=lambda diff_id: (store.roots / root_name([diff_id])).is_dir(),
    )
    name = f"{found.name.repository}:{found.name.tag or found.image.digest.replace(':', '-')[:19]}"
    store.layout.tag(name, found.image.manifest)
    return ImageRef.read(store.layout, found.image.digest, (name,)), pulled.fetched


def pulled_candidate(
    context: Context, text: str, engine: str | None
) -> tuple[PulledReady, Callable[[], Engine]]:
    """Pull an image that envbuild published, with a way to the engine that runs it.

    Raises:
        EnvbuildError: as of :func:`find` and :func:`bring`; exit 3 or 5 where its lock is not there or gives another
            image, before any layer is fetched.
    """
    found = find(context, text, of_index=True)
    lock = found.lock()
    store = context.store()
    image, _ = bring(context, found, store)
    recipe = asked_recipe(lock, found.pinned)
    ready = PulledReady(found=found, recipe=recipe, lock=lock, store=store, image=image)
    return ready, lambda: choose_engine(context, ready, engine)
