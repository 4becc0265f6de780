"""What rendered files start from besides the lock: base images by digest, the interpreter, uv (``pins.toml``)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe.model import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """NVIDIA's images for one CUDA version, as ``name:tag@sha256:…``: to compile in, and to ship on."""

    devel: str
    final: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The pins for one recipe: ``python`` is a patch release."""

    base: Base
    python: str
    uv_version: str
    uv_sha256: str


def pins_for(recipe: Recipe) -> Pins:
    """The pins that fit a recipe's CUDA and Python.

    Raises:
        EnvbuildError: exit 3; no base image is known for them.
    """
    table = tomllib.loads(resources.files(__package__).joinpath("pins.toml").read_text(encoding="utf-8"))
    bases, pythons = table["bases"], table["python"]
    if recipe.cuda.version not in bases:
        raise _none(recipe, "cuda.version", f"NVIDIA base image for CUDA {recipe.cuda.version}", list(bases))
    if recipe.python.version not in pythons:
        raise _none(recipe, "python.version", f"Python {recipe.python.version}", list(pythons))
    base = bases[recipe.cuda.version]
    return Pins(
        base=Base(devel=base["devel"], final=base["final"]),
        python=pythons[recipe.python.version],
        uv_version=table["uv"]["version"],
        uv_sha256=table["uv"]["sha256"],
    )


def _none(recipe: Recipe, key: str, what: str, known: list[str]) -> EnvbuildError:
    return EnvbuildError(
        "no-base-image",
        f"no {what} is known by digest; known: {', '.join(known)}",
        where=recipe.where(key),
        hint=f"pin one of those, or use `envbuild image {recipe.ref}`, which needs no base image",
        exit=Exit.INPUT,
    )
