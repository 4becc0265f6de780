"""Images that Docker built: what they are called, and how commands find them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from envbuild.cli.build import build
from envbuild.cli.context import Context
from envbuild.cli.named import CANDIDATE
from envbuild.cli.proof import Candidate, choose_engine
from envbuild.engine import Engine, ImageRef
from envbuild.engine.docker import Docker
from envbuild.engine.docker_built import BuiltImage
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import Subject, expect
from envbuild.image.plan import inputs_digest
from envbuild.lock import Lock
from envbuild.recipe import Recipe, parse_ref
from envbuild.recipe.document import FILE
from envbuild.registry.reference import is_image_name
from envbuild.smoke.model import Expectations
from envbuild.store import Store

SUFFIX = "-nvidia"
"""What the tag of an image ends with that was built from the recipe's Dockerfile on NVIDIA's base."""

_INPUTS = "io.envbuild.inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerReady:
    """An image that Docker built from a recipe's Dockerfile. The store has none of it."""

    recipe: Recipe
    lock: Lock
    store: Store
    docker: Docker
    built: BuiltImage

    @property
    def name(self) -> str:
        """The name that a pass gives: ``name:tag-nvidia``, never the recipe's own."""
        return docker_name(self.recipe)

    @property
    def candidate(self) -> str:
        """Its name without a verdict."""
        return f"{self.name}{CANDIDATE}"

    @property
    def image(self) -> ImageRef:
        """The engine's view."""
        return self.built.ref

    @property
    def subject(self) -> Subject:
        """What a verdict is about: the engine's ID of the image stands for manifest and config."""
        ref = self.built.ref
        return Subject(ref=self.name, manifest=ref.manifest, config=ref.config, diff_ids=ref.diff_ids)

    def expected(self, *, gpus_given: int | None = None) -> Expectations:
        """The recipe's expectations, under this image's name."""
        return replace(expect(self.recipe, self.lock, gpus_given=gpus_given), ref=self.name)

    def give(self, context: Context, tag: str) -> None:
        """Name it in the engine, which is the only place that has it."""
        del context
        self.docker.tag(self.image, [tag])


def docker_name(recipe: Recipe) -> str:
    """``name:tag-nvidia``."""
    return f"{recipe.ref}{SUFFIX}"


def recipe_of(context: Context, ref: str) -> str | None:
    """The recipe's reference where ``ref`` names an image that Docker builds; ``None`` where it names a recipe."""
    name, _, tag = ref.partition(":")
    if not tag.endswith(SUFFIX) or any(
        (folder / name / tag / FILE).is_file() for folder in context.settings.recipes
    ):
        return None
    return str(parse_ref(ref.removesuffix(SUFFIX)))


def find_built(context: Context, ref: str) -> DockerReady:
    """The image that Docker built of the recipe ``ref``: the candidate, or what has the tag.

    Raises:
        EnvbuildError: exit 7, no engine answers; exit 3, it has no such image, or one that another lock gave.
    """
    recipe = context.recipe(ref)
    lock = context.lock(recipe)
    store = context.store()
    docker = Docker.connect(context.settings.environ)
    name = docker_name(recipe)
    how = f"envbuild image {recipe.ref} --builder docker --base nvidia"
    built = docker.built(f"{name}-candidate", store.layout) or docker.built(name, store.layout)
    if built is None:
        raise EnvbuildError(
            "image-not-built", f"Docker has no image {name}-candidate", hint=f"run `{how}`", exit=Exit.INPUT
        )
    if built.labels.get(_INPUTS) != inputs_digest(lock):
        raise EnvbuildError(
            "image-of-another-lock",
            f"Docker's {built.ref.names[0]} was built from another lock than the one that {recipe.ref} has now",
            where=str(recipe.lock_path),
            hint=f"run `{how}`",
            exit=Exit.INPUT,
        )
    return DockerReady(recipe=recipe, lock=lock, store=store, docker=docker, built=built)


def candidate_of(context: Context, ref: str, engine: str | None) -> tuple[Candidate, Callable[[], Engine]]:
    """The image of ``ref`` with a way to the engine that runs it: built where the store lacks it, pulled, or in Docker.

    Args:
        context: the call's settings.
        ref: a recipe's ``name:tag``, ``name:tag-nvidia``, or an image's name in a registry.
        engine: what ``--engine`` said.

    Raises:
        EnvbuildError: as of building, or :func:`find_built`; exit 2, another engine than Docker for Docker's image.
    """
    if is_image_name(ref):
        from envbuild.cli.pulled import pulled_candidate

        return pulled_candidate(context, ref, engine)
    recipe = recipe_of(context, ref.removesuffix(CANDIDATE))
    if recipe is None:
        ready = build(context, ref, unpacked=True)
        return ready, lambda: choose_engine(context, ready, engine)
    if engine not in (None, "docker"):
        raise EnvbuildError(
            "options-contradict",
            f"--engine {engine}: only Docker has {ref}",
            hint="leave out --engine",
            exit=Exit.USAGE,
        )
    found = find_built(context, recipe)
    return found, lambda: found.docker
