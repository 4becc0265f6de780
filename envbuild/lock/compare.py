"""Whether a recipe and a lock agree."""

from __future__ import annotations

import json
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from envbuild.lock.model import Lock
from envbuild.recipe.model import Recipe


def check(recipe: Recipe, lock: Lock) -> list[str]:
    """The differences, one a line, in the recipe's terms; empty where recipe and lock agree.

    Besides the recipe as the lock remembers it, what is locked is held against what the recipe pins: a lock that
    was edited by hand does not pass.
    """
    found = [] if recipe.ref == lock.ref else [f"the lock is that of {lock.ref}"]
    found += _differences(recipe.to_dict(), lock.recipe, "")
    return found or list(_locked(recipe, lock))


def _differences(mine: object, theirs: object, key: str) -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in sorted({*mine, *theirs}):
            inner = f"{key}.{name}" if key else name
            if name not in mine:
                yield f"{inner}: gone from the recipe, the lock has {_text(theirs[name])}"
            elif name not in theirs:
                yield f"{inner}: the recipe has {_text(mine[name])}, the lock nothing"
            else:
                yield from _differences(mine[name], theirs[name], inner)
    elif mine != theirs:
        yield f"{key}: the recipe has {_text(mine)}, the lock {_text(theirs)}"


def _locked(recipe: Recipe, lock: Lock) -> Iterator[str]:
    python = {item.name: item.version for item in lock.python}
    wanted = {"torch": recipe.torch.version, "torchvision": recipe.torch.torchvision}
    for name, version in wanted.items():
        if version is not None and not _same(version, python.get(name)):
            yield f"{name}: the recipe has {version}, the lock holds {python.get(name, 'none')}"
    for text in recipe.python.packages:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if requirement.marker is None and name not in python:
            yield f"{name}: the recipe asks for it, the lock does not hold it"
        elif name in python and not requirement.specifier.contains(python[name], prereleases=True):
            yield f"{name}: the recipe has {text}, the lock holds {python[name]}"
    debian = {item.name for item in lock.debian}
    for name in recipe.debian.packages:
        if name not in debian:
            yield f"{name}: the recipe asks Debian for it, the lock does not hold it"
    source = lock.native.source.version if lock.native else None
    pinned = recipe.deepspeed.version if recipe.deepspeed else None
    if source != pinned and not (pinned and _same(pinned, source)):
        yield f"deepspeed: the recipe has {pinned or 'none'}, the lock holds {source or 'none'}"


def _same(pinned: str, locked: str | None) -> bool:
    """Whether they are one version; a local part (``+cu126``), which some indexes add, does not count."""
    return locked is not None and Version(pinned) == Version(Version(locked).public)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
