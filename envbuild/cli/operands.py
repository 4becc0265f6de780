"""What `envbuild diff` may be given: a recipe, one form of it, an image as it is, or a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envbuild.cli.context import Context
from envbuild.cli.pulled import find
from envbuild.difference import (
    Inventory,
    of_conda_lock,
    of_dockerfile,
    of_folder,
    of_image,
    of_lock,
    with_files,
)
from envbuild.engine import Engine, ImageRef, detect
from envbuild.engine.docker import Docker
from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import Lock, read_conda_lock, read_lock
from envbuild.oci.digest import is_digest
from envbuild.publish.proofs import LOCK
from envbuild.recipe.model import Recipe
from envbuild.recipe.suggest import nearest
from envbuild.registry.reference import is_image_name

CANDIDATE = "-candidate"
WORDS = ("image", "dockerfile", "conda", "docker", "store")
"""The words before a colon; anything else is a recipe or, with a slash, a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How operands are read: what ``envbuild diff``'s options say."""

    context: Context
    engine: str | None
    rendered: Path
    read_all: bool


def read_operands(reading: Reading, operands: Sequence[str]) -> list[Inventory]:
    """The inventory of each operand; of one that is a recipe, of every form that it makes.

    Raises:
        EnvbuildError: exit 2, 3 or 7: an operand is nothing, or cannot be read.
    """
    words = _forms(reading, operands[0]) if len(operands) == 1 else list(operands)
    read = [_read(reading, word) for word in words]
    inventories = [inventory for inventory, _ in read]
    if not any(p.files is not None for i in inventories for p in i.of("python")):
        return inventories
    store = reading.context.store()  # what is installed is held against the locked wheels that are here
    return [inventory if lock is None else with_files(inventory, lock, store) for inventory, lock in read]


def _forms(reading: Reading, operand: str) -> list[str]:
    """Every form of a recipe; an operand that is something else stands for itself."""
    if is_image_name(operand) or _is_folder(operand) or operand.partition(":")[0] in WORDS:
        return [operand]
    recipe = reading.context.recipe(operand)
    image = [f"image:{recipe.ref}", f"dockerfile:{recipe.ref}"] if recipe.makes_image else []
    return [*image, f"conda:{recipe.ref}"]


def _read(reading: Reading, operand: str) -> tuple[Inventory, Lock | None]:
    if is_image_name(operand):
        return _published(reading, operand), None
    if _is_folder(operand):
        return of_folder(operand, Path(operand).expanduser(), read_all=reading.read_all), None
    word, colon, name = operand.partition(":")
    if not colon or word not in WORDS:
        return _recipe(reading, operand)
    if not name:
        raise EnvbuildError(
            "wrong-operand",
            f"{operand!r} names nothing behind the colon",
            hint=f"write {word}:NAME:TAG",
            exit=Exit.USAGE,
        )
    readers: Mapping[str, Callable[[], tuple[Inventory, Lock | None]]] = {
        "image": lambda: _image_lock(operand, reading.context.recipe(name)),
        "dockerfile": lambda: (_dockerfile(reading, operand, reading.context.recipe(name)), None),
        "conda": lambda: (_conda_lock(operand, reading.context.recipe(name)), None),
        "docker": lambda: (_docker(reading, operand, name), None),
        "store": lambda: (_stored(reading, operand, name), None),
    }
    return readers[word]()


def _is_folder(operand: str) -> bool:
    """A path has a slash in it, or is ``.`` or ``..``; what has a word of ours before a colon is none."""
    if operand.partition(":")[0] in WORDS and ":" in operand:
        return False
    return "/" in operand or operand in (".", "..", "~")


def _recipe(reading: Reading, operand: str) -> tuple[Inventory, Lock | None]:
    """A recipe without a word: its image, or where it makes none, its environment."""
    if operand.endswith(CANDIDATE):
        raise EnvbuildError(
            "wrong-operand",
            f"{operand!r} is an image, not a recipe",
            hint=f"write docker:{operand} for Docker's image of that name, store:{operand} for the store's",
            exit=Exit.USAGE,
        )
    try:
        recipe = reading.context.recipe(operand)
    except EnvbuildError as error:
        if error.id in ("no-recipe", "wrong-reference") and Path(operand).is_dir():
            error.hint = f"for the folder of that name write ./{operand}. {error.hint}"
        raise
    return _image_lock(operand, recipe) if recipe.makes_image else (_conda_lock(operand, recipe), None)


def _image_lock(operand: str, recipe: Recipe) -> tuple[Inventory, Lock]:
    _makes_image(recipe)
    lock = read_lock(recipe.lock_path)
    return of_lock(operand, lock), lock


def _dockerfile(reading: Reading, operand: str, recipe: Recipe) -> Inventory:
    _makes_image(recipe)
    return of_dockerfile(operand, recipe.ref, reading.rendered)


def _conda_lock(operand: str, recipe: Recipe) -> Inventory:
    return of_conda_lock(operand, read_conda_lock(recipe.conda_lock_path))


def _makes_image(recipe: Recipe) -> None:
    if not recipe.makes_image:
        raise EnvbuildError(
            "makes-no-image",
            f"{recipe.ref} makes no image, so it has neither an image's lock nor a Dockerfile",
            where=recipe.where("makes"),
            hint=f"write conda:{recipe.ref} for its environment",
            exit=Exit.INPUT,
        )


def _docker(reading: Reading, operand: str, name: str) -> Inventory:
    """An image that a Docker engine has, whoever built it."""
    context = reading.context
    engine = Docker.connect(context.settings.environ)
    found = engine.built(name, context.store().layout)
    if found is None:
        raise EnvbuildError(
            "no-such-image",
            f"Docker has no image {name}",
            where=operand,
            hint="`docker images` lists what there is; `docker pull` brings one, `envbuild image REF` builds one",
            exit=Exit.INPUT,
        )
    return of_image(
        operand,
        engine,
        found.ref,
        progress=context.terminal.progress,
        read_all=reading.read_all,
        size=found.size,
    )


def _stored(reading: Reading, operand: str, name: str) -> Inventory:
    """An image in the store, by one of its names or by its manifest's digest."""
    context = reading.context
    store = context.store()
    tags = store.layout.tags()
    manifest = name if is_digest(name) else tags[name].digest if name in tags else None
    if manifest is None or not store.layout.has(manifest):
        near = nearest(name, tags)
        offer = f"did you mean store:{near[0]}? " if near else ""
        raise EnvbuildError(
            "no-such-image",
            f"the store has no image {name}",
            where=str(store.layout.root),
            hint=f"{offer}`envbuild image REF` builds one, as REF{CANDIDATE} until it is proven",
            exit=Exit.INPUT,
        )
    image = ImageRef.read(store.layout, manifest, (name if name in tags else "envbuild:stored",))
    engine = _choose(reading, image)
    if not engine.has(image):
        engine.load(image, context.terminal.progress)
    return of_image(
        operand,
        engine,
        image,
        progress=context.terminal.progress,
        read_all=reading.read_all,
        size=image.size,
    )


def _published(reading: Reading, operand: str) -> Inventory:
    """An image in a registry: what the attached lock says is in it, and its layers. No layer is fetched.

    Of an image that has no lock, which envbuild did not publish, only the layers are known.
    """
    found = find(reading.context, operand)
    image = found.image
    known = of_lock(operand, found.lock()) if any(p.artifact_type == LOCK for p in found.proofs) else None
    return Inventory(
        label=operand,
        form="published image",
        ref=known.ref if known else None,
        packages=known.packages if known else (),
        facts=known.facts if known else {},
        digest=image.config.digest,
        layers=image.diff_ids,
        size=image.size,
        blobs={layer.digest: layer.size for layer in image.layers},
    )


def _choose(reading: Reading, image: ImageRef) -> Engine:
    """An engine that has the image; else one that only unpacks it, before one that copies it."""
    settings = reading.context.settings
    found = detect(
        reading.engine or settings.engine, reading.context.store(), settings.environ, jobs=settings.jobs
    )
    having = [engine for engine in found if engine.has(image)]
    return having[0] if having else found[-1]
