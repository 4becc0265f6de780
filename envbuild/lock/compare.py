"""Whether a recipe and a lock agree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from envbuild.lock.model import Artifact, Lock
from envbuild.recipe.model import Recipe


def check(recipe: Recipe, lock: Lock) -> list[str]:
    """The differences, one a line, in the recipe's terms; empty where recipe and lock agree.

    Besides the recipe as the lock remembers it, what is locked is held against what the recipe pins: a lock that
    was edited by hand does not pass.
    """
    found = [] if recipe.ref == lock.ref else [f"the lock is that of {lock.ref}"]
    found += differences(recipe.to_dict(), lock.recipe)
    return found or list(_locked(recipe, lock))


def follows(lock: Lock, parent: Lock) -> list[str]:
    """Where the lock of a recipe holds other files than the lock of the recipe that it extends, one a line.

    Such a lock is whole, but its image shares fewer layers than it could. Only what both recipes ask for in the same
    words has to be the same: Python's tables for Python's packages, Debian's for Debian's.
    """
    pairs: list[tuple[Sequence[Artifact], Sequence[Artifact]]] = []
    if _tables(parent.recipe) == _tables(lock.recipe):
        pairs.append((parent.python, lock.python))
        if lock.native and parent.native:
            theirs, mine = parent.native, lock.native
            pairs += [(theirs.toolchain, mine.toolchain), (theirs.build, mine.build)]
    if debian_request(parent.recipe) == debian_request(lock.recipe):
        pairs.append((parent.debian, lock.debian))
    found = []
    for before, after in pairs:
        known = {item.name: item for item in before}
        found += [
            f"{item.name}: {parent.ref} locks {known[item.name].version}, this lock holds {item.version}"
            for item in after
            if item.name in known and known[item.name].sha256 != item.sha256
        ]
    return found


def debian_request(recipe: Mapping[str, object]) -> tuple[object, tuple[str, ...]]:
    """What a recipe (``Recipe.to_dict``) asks of Debian: its table, and what its parts bring."""
    return recipe.get("debian"), _brought(recipe, "debian")


def python_request(recipe: Mapping[str, object]) -> tuple[object, ...]:
    """What a recipe (``Recipe.to_dict``) asks of Python's index: its tables, and what its parts bring."""
    return _tables(recipe), _brought(recipe, "python")


def _tables(recipe: Mapping[str, object]) -> list[object]:
    return [recipe.get(table) for table in ("python", "torch", "cuda", "deepspeed")]


def _brought(recipe: Mapping[str, object], kind: str) -> tuple[str, ...]:
    parts = cast("Mapping[str, Mapping[str, list[str]]]", recipe.get("parts") or {})
    return tuple(sorted({name for part in parts.values() for name in part[kind]}))


def differences(mine: object, theirs: object, key: str = "") -> Iterator[str]:
    """Where what a recipe says now (``mine``) is not what its lock remembers (``theirs``), one a line.

    ``key`` is the dotted name of what is compared.
    """
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in sorted({*mine, *theirs}):
            inner = f"{key}.{name}" if key else name
            if name not in mine:
                yield f"{inner}: gone from the recipe, the lock has {_text(theirs[name])}"
            elif name not in theirs:
                yield f"{inner}: the recipe has {_text(mine[name])}, the lock nothing"
            else:
                yield from differences(mine[name], theirs[name], inner)
    elif mine != theirs:
        yield f"{key}: the recipe has {_text(mine)}, the lock {_text(theirs)}"


def _locked(recipe: Recipe, lock: Lock) -> Iterator[str]:
    python = {item.name: item.version for item in lock.python}
    wanted = {"torch": recipe.torch.version, "torchvision": recipe.torch.torchvision}
    for name, version in wanted.items():
        if version is not None and not _same(version, python.get(name)):
            yield f"{name}: the recipe has {version}, the lock holds {python.get(name, 'none')}"
    for text in recipe.python_packages:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if requirement.marker is None and name not in python:
            yield f"{name}: the recipe asks for it, the lock does not hold it"
        elif name in python and not requirement.specifier.contains(python[name], prereleases=True):
            yield f"{name}: the recipe has {text}, the lock holds {python[name]}"
    debian = {item.name for item in lock.debian}
    for name in recipe.debian_packages:
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
