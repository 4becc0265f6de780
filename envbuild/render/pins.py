"""What rendered files start from besides the locks: images by digest, and pip (``pins.toml``)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact
from envbuild.recipe.model import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """NVIDIA's images for one CUDA version, as ``name:tag@sha256:…``: to compile in, and to ship on."""

    devel: str
    final: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The pins for one recipe: images as ``name:tag@sha256:…``, and the pip that installs."""

    base: Base
    micromamba: str
    pip: Artifact


def pins_for(recipe: Recipe) -> Pins:
    """The pins that fit a recipe's CUDA.

    Raises:
        EnvbuildError: exit 3; no base image is known for it.
    """
    table = tomllib.loads(resources.files(__package__).joinpath("pins.toml").read_text(encoding="utf-8"))
    bases = table["bases"]
    if recipe.cuda.version not in bases:
        raise EnvbuildError(
            "no-base-image",
            f"no NVIDIA base image for CUDA {recipe.cuda.version} is known by digest; known: {', '.join(bases)}",
            where=recipe.where("cuda.version"),
            hint=f"pin one of those, or use `envbuild image {recipe.ref}`, which needs no base image",
            exit=Exit.INPUT,
        )
    base, pip = bases[recipe.cuda.version], table["pip"]
    return Pins(
        base=Base(devel=base["devel"], final=base["final"]),
        micromamba=table["micromamba"],
        pip=Artifact(
            kind="wheel",
            name="pip",
            version=pip["version"],
            file=pip["file"],
            size=pip["size"],
            sha256=pip["sha256"],
            index="python",
        ),
    )
