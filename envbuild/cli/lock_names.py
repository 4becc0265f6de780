"""Which of the names that ``--upgrade`` gives belong to the image's lock, and which to the conda lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from envbuild.lock import CondaLock, Lock
from envbuild.recipe.model import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names that move, by lock."""

    image: tuple[str, ...]
    conda: tuple[str, ...]


def names_to_upgrade(
    recipe: Recipe, upgrade: Sequence[str], image: Lock | None, conda: CondaLock | None
) -> Names:
    """Each name goes to the locks that hold it; one that none holds to the image's, or the only one, which refuses it.

    Args:
        recipe: whose locks they are.
        upgrade: the names.
        image: the image's lock where it is to be written and was there.
        conda: likewise the conda lock.
    """
    there = {package.name for package in conda.packages} if conda else set()
    there |= {item.name for item in conda.pip} if conda else set()
    mine = {item.name for item in (*image.debian, *image.python)} if image else set()
    if image is not None and image.native is not None:
        mine |= {item.name for item in (*image.native.toolchain, *image.native.build)}
    both = image is not None and conda is not None
    to_conda = tuple(name for name in upgrade if name in there or (conda is not None and image is None))
    to_image = tuple(
        name
        for name in upgrade
        if not both or name not in there or name in mine or str(canonicalize_name(name)) in mine
    )
    return Names(image=to_image, conda=to_conda)
