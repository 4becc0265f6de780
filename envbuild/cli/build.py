"""What several commands begin with: the recipe's image, built where the store lacks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from envbuild.cli.context import Context
from envbuild.cli.files import write_lock
from envbuild.engine import ImageRef, survey
from envbuild.gate import Subject, expect, subject_of
from envbuild.image.assemble import Built, assemble
from envbuild.image.locked import unpacked_image
from envbuild.image.plan import ImageBase
from envbuild.image.workshop import Workshop
from envbuild.layers.licences import add_licences
from envbuild.lock import Lock, lock_bytes
from envbuild.lock.licences import known_licences, with_licences
from envbuild.oci.image import Image
from envbuild.recipe import Recipe
from envbuild.smoke.model import Expectations
from envbuild.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A built image with all that it came from. ``image`` is the engines' view, named as a candidate."""

    recipe: Recipe
    lock: Lock
    store: Store
    workshop: Workshop
    built: Built
    image: ImageRef

    @property
    def name(self) -> str:
        """The name that a pass gives."""
        return str(self.recipe.ref)

    @property
    def candidate(self) -> str:
        """Its name without a verdict."""
        return self.recipe.ref.candidate

    @property
    def subject(self) -> Subject:
        """What a verdict is about."""
        return subject_of(self.name, self.built.image)

    def expected(self, *, gpus_given: int | None = None) -> Expectations:
        """What the suite must find in it."""
        return expect(self.recipe, self.lock, gpus_given=gpus_given)

    def give(self, context: Context, tag: str) -> None:
        """Name it in the store, and in a Docker engine that has it."""
        self.store.layout.tag(tag, self.built.image.manifest)
        settings = context.settings
        for found in survey(self.store, settings.environ, jobs=settings.jobs):
            if found.name == "docker" and found.engine is not None and found.engine.has(self.image):
                found.engine.tag(self.image, [tag])


def build(context: Context, ref: str, *, base: str | None = None, unpacked: bool = False) -> Ready:
    """Assemble the image of ``ref`` from its lock, and let the lock name its digests the first time.

    Args:
        context: the call's settings and terminal.
        ref: ``name:tag``.
        base: an image of a registry (``REPOSITORY@sha256:…``) to start from instead of the locked Debian base;
            its digests are then not those of the lock, and are not written there.
        unpacked: whether unpacked layers are enough, as `envbuild unbundle` leaves them: nothing is built then.
    """
    recipe = context.recipe(ref)
    lock = context.lock(recipe)
    store = context.store()
    workshop = context.workshop(lock, store)
    found = unpacked_image(lock, store) if unpacked else None
    if found is not None:
        operator = lock.native.wheel if lock.native else None
        built = Built(image=found, operator=operator, made=(), bytes_fetched=0, seconds={})
    else:
        built = assemble(lock, workshop, base=_pulled(context, base, workshop) if base else None)
    if base is None:
        lock = _remember(context, recipe, lock, built, store)
    return Ready(
        recipe=recipe,
        lock=lock,
        store=store,
        workshop=workshop,
        built=built,
        image=named(store, built.image, recipe.ref.candidate),
    )


def layer_values(image: Image, made: Sequence[str]) -> list[dict[str, object]]:
    """``layers`` of ``envbuild image --json``; ``made`` are the names of those that this run made."""
    return [
        {
            "name": layer.name,
            "digest": layer.digest,
            "diff_id": layer.diff_id,
            "size": layer.size,
            "artifacts": list(layer.artifacts),
            "made": layer.name in made,
        }
        for layer in image.layers
    ]


def _pulled(context: Context, reference: str, workshop: Workshop) -> ImageBase:
    from envbuild.image.base import pull_base
    from envbuild.store import Http

    environ = context.settings.environ
    return pull_base(
        reference,
        store=workshop.store,
        sandbox=workshop.sandbox(),
        http=Http(environ=environ),
        environ=environ,
        jobs=context.settings.jobs,
        progress=context.terminal.progress,
    )


def named(store: Store, image: Image, name: str) -> ImageRef:
    """Name ``image`` in the store's layout; what engines take."""
    store.layout.tag(name, image.manifest)
    return ImageRef.read(store.layout, image.digest, (name,))


def _remember(context: Context, recipe: Recipe, lock: Lock, built: Built, store: Store) -> Lock:
    """Write what was built into the lock, the first time; the licences too, since the files are at hand then."""
    native = replace(lock.native, wheel=built.operator) if lock.native else None
    full = with_licences(replace(lock, native=native, image=built.lock), known_licences([lock]))
    if lock_bytes(full) != lock_bytes(lock):
        full = add_licences(full, store, context.terminal.progress)
        write_lock(recipe.lock_path, full)
        context.terminal.progress.note(f"{recipe.lock_path} now names the image's digests")
    return full
