"""What a user may call an image: its reference, its candidate's name, or a digest that a lock names."""

from __future__ import annotations

from envbuild.cli.context import Context
from envbuild.errors import EnvbuildError, Exit
from envbuild.image.locked import image_of
from envbuild.lock import read_lock
from envbuild.oci.digest import is_digest
from envbuild.recipe import list_recipes

CANDIDATE = "-candidate"


def ref_of(context: Context, image: str) -> tuple[str, str | None]:
    """The recipe's reference, and the digest that the image must have (``None``: whatever the lock gives).

    Args:
        context: the call's recipes.
        image: ``NAME:TAG``, ``NAME:TAG-candidate``, either with ``@sha256:…``, or ``sha256:…`` alone: the digest of a
            manifest, or of a config as ``docker images --no-trunc`` shows it.

    Raises:
        EnvbuildError: exit 3: no lock names the digest.
    """
    name, _, digest = (
        image.partition("@") if "@" in image else ("", "", image) if is_digest(image) else (image, "", "")
    )
    if name:
        return name.removesuffix(CANDIDATE), digest or None
    for recipe in list_recipes(context.settings.recipes):
        found = image_of(read_lock(recipe.lock_path)) if recipe.lock_path.exists() else None
        if found is not None and digest in (found.digest, found.config.digest):
            return str(recipe.ref), digest
    raise EnvbuildError(
        "no-such-image",
        f"no lock names the image {digest}",
        hint="`envbuild list` shows which image each recipe's lock names; `--recipes DIR` looks elsewhere",
        exit=Exit.INPUT,
    )
