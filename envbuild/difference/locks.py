"""What a recipe's locks hold: the image's (``lock.json``) and conda's (``conda.lock.json``)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from envbuild.difference.inventory import Fact, Inventory, Package
from envbuild.difference.lister import wheel_files
from envbuild.lock import Artifact, CondaLock, Lock
from envbuild.store import Store


def of_lock(label: str, lock: Lock) -> Inventory:
    """The image that a lock describes. DeepSpeed stands with its source's hash: that is what all forms have of it."""
    sources = (lock.native.source,) if lock.native else ()
    pinned = lock.recipe.get("deepspeed")
    facts: dict[str, tuple[Fact, ...]] = {}
    if isinstance(pinned, dict):
        table = cast("dict[str, list[str]]", pinned)
        facts = {
            key: (Fact(value=" ".join(table[key]), source=f"$.recipe.deepspeed.{key}"),)
            for key in ("operators", "architectures")
        }
    return Inventory(
        label=label,
        form="image lock",
        ref=str(lock.ref),
        packages=(*_artifacts([*lock.python, *sources]), *_artifacts(lock.debian)),
        facts=facts,
        digest=lock.image.config if lock.image else None,
        layers=tuple(layer.diff_id for layer in lock.image.layers) if lock.image else (),
        size=sum(layer.size for layer in lock.image.layers) if lock.image else None,
        blobs={layer.digest: layer.size for layer in lock.image.layers} if lock.image else {},
    )


def of_conda_lock(label: str, lock: CondaLock) -> Inventory:
    """The environment, or the interpreter alone, that a conda lock describes."""
    conda = tuple(
        Package(ecosystem="conda", name=p.name, version=p.version, build=p.build, sha256=p.sha256)
        for p in lock.packages
    )
    return Inventory(
        label=label, form="conda lock", ref=str(lock.ref), packages=(*conda, *_artifacts(lock.pip))
    )


def with_files(inventory: Inventory, lock: Lock, store: Store) -> Inventory:
    """The image lock's inventory with the files of the wheels that the store has, to hold against what is installed.

    The compiled operator counts in place of its source where the store has it.
    """
    wheels = {artifact.name: artifact for artifact in lock.python}
    if lock.native and lock.native.wheel:
        wheels[lock.native.source.name] = lock.native.wheel
    return replace(
        inventory,
        packages=tuple(
            replace(package, files=_files(wheels.get(package.name), store))
            if package.ecosystem == "python"
            else package
            for package in inventory.packages
        ),
    )


def _files(artifact: Artifact | None, store: Store) -> dict[str, str] | None:
    if artifact is None or not store.has(artifact.sha256, artifact.size):
        return None
    try:
        return wheel_files(str(store.artifact(artifact.sha256)))
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
        return None  # not a wheel that can be read: what it would install is not known


def _artifacts(artifacts: Iterable[Artifact]) -> tuple[Package, ...]:
    return tuple(
        Package(
            ecosystem="debian" if artifact.kind == "deb" else "python",
            name=artifact.name,
            version=artifact.version,
            sha256=artifact.sha256,
        )
        for artifact in artifacts
    )
