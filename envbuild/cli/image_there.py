"""``envbuild image`` where the configured registry has the locked image already: nothing is downloaded or built."""

from __future__ import annotations

import time
from dataclasses import dataclass

from envbuild.cli.build import layer_values
from envbuild.cli.context import Context
from envbuild.cli.registries import REGISTRY, configured
from envbuild.cli.terminal import Terminal, size
from envbuild.errors import EnvbuildError, Exit
from envbuild.image.locked import image_of
from envbuild.oci.image import Image
from envbuild.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class There:
    """The locked image, which ``repository`` has under ``tags`` (full names; none: by digest only)."""

    recipe: Recipe
    image: Image
    repository: str
    tags: tuple[str, ...]
    promoted: bool
    seconds: float


def image_there(context: Context, ref: str) -> There | None:
    """Ask the registry that ``ENVBUILD_REGISTRY`` names for the digest that the lock of ``ref`` names.

    Returns:
        ``None`` where none is configured, the lock was never built, or the registry lacks it or cannot be asked,
        which is told: building does not need it.

    Raises:
        EnvbuildError: exit 2 or 3, the setting, the recipe or the lock.
    """
    started = time.monotonic()
    remote = configured(context, REGISTRY)
    if remote is None:
        return None
    recipe = context.recipe(ref)
    image = image_of(context.lock(recipe))
    if image is None:
        return None
    names = {recipe.ref.tag: True, recipe.ref.candidate.rpartition(":")[2]: False}
    try:
        if remote.head(image.digest) is None:
            return None
        having = [tag for tag in names if (head := remote.head(tag)) and head.digest == image.digest]
    except EnvbuildError as error:
        if error.exit is not Exit.NETWORK:
            raise
        context.terminal.progress.note(f"{remote.name} was not asked for the image: {error.message}")
        return None
    return There(
        recipe=recipe,
        image=image,
        repository=str(remote.name),
        tags=tuple(f"{remote.name}:{tag}" for tag in having),
        promoted=any(names[tag] for tag in having),
        seconds=round(time.monotonic() - started, 3),
    )


def tell_there(context: Context, there: There, *, require_verdict: bool) -> int:
    """Print it as `envbuild image` prints what it built; the exit code."""
    image, ref = there.image, there.recipe.ref
    pinned = f"{there.repository}@{image.digest}"
    refusal = None
    if require_verdict and not there.promoted:
        refusal = EnvbuildError(
            "no-verdict",
            f"{pinned} has not got its tag {ref.tag} yet",
            hint=f"on a machine with GPUs run `envbuild smoke {pinned} --attach`, then `envbuild promote {pinned}`",
            exit=Exit.GATE,
        )
    total = sum(layer.size for layer in image.layers)
    value: dict[str, object] = {
        "ref": str(ref),
        "builder": "oci",
        "digest": image.digest,
        "config": image.config.digest,
        "tags": list(there.tags),
        "candidate": not there.promoted,
        "verdict": None,
        "size": total,
        "layers": layer_values(image, ()),
        "engine": None,
        "output": None,
        "registry": pinned,
        "bytes_fetched": 0,
        "seconds": {"total": there.seconds},
        "verify": None,
        "docker": None,
    }
    if refusal is not None:
        value["error"] = refusal.to_dict()
    context.terminal.data(
        value,
        f"{(there.tags or (pinned,))[0]}  {image.digest}\n"
        f"  {there.repository} has it: {len(image.layers)} layers, {size(total)}; nothing was built or fetched",
    )
    if refusal is not None:
        Terminal(json=False, quiet=True).error(refusal)  # the one JSON document holds it already
        return int(refusal.exit)
    context.terminal.progress.note(
        f"`docker pull {pinned}` or `envbuild pull {pinned}` brings it; `envbuild verify {pinned}` tells its proofs"
    )
    return int(Exit.DONE)
