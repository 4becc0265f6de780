"""``envbuild lock``."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

import click

from envbuild.cli.context import Context, common
from envbuild.cli.files import replace_file, write_conda_lock, write_lock
from envbuild.cli.lock_names import names_to_upgrade
from envbuild.errors import EnvbuildError, Exit
from envbuild.image.locked import image_of
from envbuild.lock import (
    CondaChannels,
    CondaLock,
    Indexes,
    Lock,
    check,
    conda_lock_bytes,
    follows,
    follows_conda,
    is_older,
    lock_bytes,
    read_conda_lock,
    read_lock,
    requirements_txt,
    resolve,
    resolve_conda,
)
from envbuild.recipe.model import Recipe
from envbuild.store import Http

IMAGE, CONDA = "image", "conda"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a call is to do with one recipe."""

    recipe: Recipe
    image: bool
    conda: bool
    upgrade: tuple[str, ...]
    date: str
    channels: tuple[str, ...]
    forget_built: bool


@click.command()
@click.argument("ref")
@click.option("--check", "check_only", is_flag=True, help="Write nothing; exit 3 and say what differs.")
@click.option("--upgrade", multiple=True, metavar="NAME", help="Move this package, and what must follow.")
@click.option(
    "--only",
    type=click.Choice([IMAGE, CONDA]),
    help="Only lock.json, or only conda.lock.json [default: both].",
)
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME=URL|DIR",
    help="Read this conda channel from a mirror or a folder; the lock names the channel's own address.",
)
@click.option(
    "--forget-built",
    is_flag=True,
    help="Forget the digests of what was built; the next build names them anew.",
)
@click.option(
    "--date",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Look at nothing that was uploaded after this day [default: today].",
)
@common
def command(
    context: Context,
    ref: str,
    check_only: bool,
    upgrade: tuple[str, ...],
    only: str | None,
    channels: tuple[str, ...],
    forget_built: bool,
    date: datetime.datetime | None,
) -> None:
    """Resolve the recipe REF (name:tag) and write every input's hash to lock.json and conda.lock.json beside it.

    What is locked stays as it is; only what the recipe changed, or --upgrade names, moves.
    """
    recipe = context.recipe(ref)
    asked = _Asked(
        recipe=recipe,
        image=recipe.makes_image and only != CONDA,
        conda=only != IMAGE,
        upgrade=upgrade,
        date=(date or datetime.datetime.now(datetime.UTC)).date().isoformat(),
        channels=channels,
        forget_built=forget_built,
    )
    if only == IMAGE and not recipe.makes_image:
        context.lock(recipe)  # says that there is no image
    if check_only:
        _check(context, asked)
    else:
        _write(context, asked)


def _check(context: Context, asked: _Asked) -> None:
    recipe = asked.recipe
    if asked.image:
        lock = context.lock(recipe)
        _check_format(recipe)
        _check_parent(context, recipe, lock)
        _check_requirements(recipe)
    if asked.conda:
        _check_conda_parent(context, recipe, context.conda_lock(recipe))
    context.terminal.data({"ref": str(recipe.ref), "agrees": True}, f"{recipe.ref}: recipe and lock agree")


def _write(context: Context, asked: _Asked) -> None:
    """Resolve everything first: where one part cannot be, nothing is written."""
    recipe = asked.recipe
    before = read_lock(recipe.lock_path) if asked.image and recipe.lock_path.exists() else None
    conda_before = (
        read_conda_lock(recipe.conda_lock_path) if asked.conda and recipe.conda_lock_path.exists() else None
    )
    names = names_to_upgrade(recipe, asked.upgrade, before if asked.image else None, conda_before)
    indexes = Indexes.from_machine(context.settings.environ)
    conda = _conda(context, asked, indexes, conda_before, names.conda) if asked.conda else None
    lock = _image(context, asked, indexes, before, names.image) if asked.image else None
    value: dict[str, Any] = {"ref": str(recipe.ref), "path": None, "changed": False, "differences": []}
    lines = []
    if lock is not None:
        value |= _write_image(recipe, before, lock)
        lines.append(
            f"{recipe.lock_path}: {len(lock.debian)} Debian and {len(lock.python)} Python packages"
            + ("" if value["changed"] else ", unchanged")
        )
    if conda is not None:
        value["conda"] = _write_conda(recipe, conda_before, conda)
        value["changed"] = value["changed"] or value["conda"]["changed"]
        lines.append(
            f"{recipe.conda_lock_path}: {len(conda.packages)} conda packages"
            + ("" if value["conda"]["changed"] else ", unchanged")
        )
    context.terminal.data(value, lines)


def _image(
    context: Context, asked: _Asked, indexes: Indexes, previous: Lock | None, upgrade: tuple[str, ...]
) -> Lock:
    lock = resolve(
        asked.recipe,
        indexes=indexes,
        http=Http(environ=indexes.environ),
        previous=previous,
        parent=_parent(context, asked.recipe),
        upgrade=upgrade,
        date=asked.date,
        store=context.store(),
        progress=context.terminal.progress,
    )
    if asked.forget_built:
        return replace(lock, image=None, native=replace(lock.native, wheel=None) if lock.native else None)
    return lock if _holds(lock) else replace(lock, image=None)


def _conda(
    context: Context, asked: _Asked, indexes: Indexes, previous: CondaLock | None, upgrade: tuple[str, ...]
) -> CondaLock:
    return resolve_conda(
        asked.recipe,
        channels=CondaChannels.from_machine(indexes.environ, asked.channels),
        indexes=indexes,
        http=Http(environ=indexes.environ),
        previous=previous,
        parent=_conda_parent(context, asked.recipe),
        upgrade=upgrade,
        date=asked.date,
        store=context.store(),
        progress=context.terminal.progress,
    )


def _write_image(recipe: Recipe, previous: Lock | None, lock: Lock) -> dict[str, Any]:
    changed = previous is None or recipe.lock_path.read_bytes() != lock_bytes(lock)
    write_lock(recipe.lock_path, lock)
    replace_file(recipe.path.with_name("requirements.txt"), requirements_txt(lock).encode())
    return {
        "path": str(recipe.lock_path),
        "changed": changed,
        "debian": len(lock.debian),
        "python": len(lock.python),
        "differences": check(recipe, lock),
    }


def _write_conda(recipe: Recipe, previous: CondaLock | None, lock: CondaLock) -> dict[str, Any]:
    changed = previous is None or conda_lock_bytes(previous) != conda_lock_bytes(lock)
    write_conda_lock(recipe.conda_lock_path, lock)
    return {
        "path": str(recipe.conda_lock_path),
        "changed": changed,
        "packages": len(lock.packages),
        "pip": len(lock.pip),
        "size": sum(package.size for package in lock.packages),
    }


def _holds(lock: Lock) -> bool:
    """Whether the digests that the lock names follow from its inputs, by this envbuild's plan."""
    try:
        image_of(lock)
    except EnvbuildError:
        return False
    return True


def _parent(context: Context, recipe: Recipe) -> Lock | None:
    """The lock of the recipe that this one extends: it must be there, since versions are taken from it."""
    return context.lock(context.recipe(str(recipe.parent))) if recipe.parent else None


def _conda_parent(context: Context, recipe: Recipe) -> CondaLock | None:
    return context.conda_lock(context.recipe(str(recipe.parent))) if recipe.parent else None


def _check_format(recipe: Recipe) -> None:
    if is_older(recipe.lock_path):
        raise EnvbuildError(
            "lock-is-older",
            f"{recipe.ref}: the lock is of an older format, so its image must be built again",
            where=str(recipe.lock_path),
            hint=f"run `envbuild image {recipe.ref}`, which builds it and writes the lock",
            exit=Exit.INPUT,
        )


def _check_parent(context: Context, recipe: Recipe, lock: Lock) -> None:
    parent = _parent(context, recipe)
    _refuse_moved(recipe, follows(lock, parent) if parent else [], str(recipe.lock_path))


def _check_conda_parent(context: Context, recipe: Recipe, lock: CondaLock) -> None:
    parent = _conda_parent(context, recipe)
    _refuse_moved(recipe, follows_conda(lock, parent) if parent else [], str(recipe.conda_lock_path))


def _refuse_moved(recipe: Recipe, differences: list[str], where: str) -> None:
    if differences:
        raise EnvbuildError(
            "lock-is-stale",
            f"{recipe.ref} extends {recipe.parent}, whose lock has moved:\n  " + "\n  ".join(differences),
            where=where,
            hint=f"run `envbuild lock {recipe.ref}`",
            exit=Exit.INPUT,
        )


def _check_requirements(recipe: Recipe) -> None:
    path = recipe.path.with_name("requirements.txt")
    expected = requirements_txt(read_lock(recipe.lock_path))
    if not path.exists() or path.read_text(encoding="utf-8") != expected:
        raise EnvbuildError(
            "requirements-differ",
            "requirements.txt is not what the lock gives",
            where=str(path),
            hint=f"run `envbuild lock {recipe.ref}`",
            exit=Exit.INPUT,
        )
