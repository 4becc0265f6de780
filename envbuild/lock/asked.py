"""The recipe that a lock was resolved from, as far as its image goes: for a machine that has the lock and no recipe."""

from __future__ import annotations

from pathlib import Path

import msgspec

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Lock
from envbuild.recipe.model import (
    IMAGE,
    CondaPins,
    CudaPins,
    DebianPins,
    DeepSpeedPins,
    GatePins,
    PythonPins,
    Recipe,
    TorchPins,
)
from envbuild.recipe.parts import Part


class _Debian(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    release: str
    packages: tuple[str, ...]
    security_updates: bool


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    debian: tuple[str, ...]
    python: tuple[str, ...]


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """``Recipe.to_dict``."""

    description: str
    python: PythonPins
    torch: TorchPins
    cuda: CudaPins
    debian: _Debian
    gate: GatePins
    parts: dict[str, _Part] = {}
    deepspeed: DeepSpeedPins | None = None


def asked_recipe(lock: Lock, where: str) -> Recipe:
    """What was asked for when ``lock`` was made: the inverse of ``Recipe.to_dict``.

    The places of its keys are not known, and what only an environment uses is not in a lock.

    Args:
        lock: the lock.
        where: what to call the lock in errors.

    Raises:
        EnvbuildError: exit 3, its ``recipe`` is none.
    """
    try:
        asked = msgspec.convert(lock.recipe, type=_Asked)
    except msgspec.ValidationError as error:
        raise EnvbuildError(
            "lock-wrong",
            f"$.recipe is no recipe: {error}",
            where=where,
            hint="take the lock as `envbuild lock` wrote it",
            exit=Exit.INPUT,
        ) from None
    debian = asked.debian
    return Recipe(
        ref=lock.ref,
        path=Path(where),
        places={},
        parent=None,
        makes=(IMAGE,),
        description=asked.description,
        parts=tuple(
            Part(name=name, debian=part.debian, python=part.python, conda=())
            for name, part in asked.parts.items()
        ),
        python=asked.python,
        torch=asked.torch,
        cuda=asked.cuda,
        deepspeed=asked.deepspeed,
        debian=DebianPins(
            release=debian.release, packages=debian.packages, security_updates=debian.security_updates
        ),
        conda=CondaPins(channels=(), packages=(), glibc="", versions={}, without=()),
        gate=asked.gate,
    )
