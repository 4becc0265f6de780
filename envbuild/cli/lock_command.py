"""``envbuild lock``."""

from __future__ import annotations

import datetime
from dataclasses import replace

import click

from envbuild.cli.context import Context, common
from envbuild.cli.files import replace_file
from envbuild.errors import EnvbuildError, Exit
from envbuild.image.locked import image_of
from envbuild.lock import Indexes, Lock, check, follows, lock_bytes, read_lock, requirements_txt, resolve
from envbuild.recipe.model import Recipe
from envbuild.store import Http


@click.command()
@click.argument("ref")
@click.option("--check", "check_only", is_flag=True, help="Write nothing; exit 3 and say what differs.")
@click.option("--upgrade", multiple=True, metavar="NAME", help="Move this package, and what must follow.")
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
    forget_built: bool,
    date: datetime.datetime | None,
) -> None:
    """Resolve the recipe REF (name:tag) and write every input's hash to lock.json beside it.

    What is locked stays as it is; only what the recipe changed, or --upgrade names, moves.
    """
    recipe = context.recipe(ref)
    if check_only:
        _check_parent(context, recipe, context.lock(recipe))
        _check_requirements(context, recipe)
        context.terminal.data({"ref": ref, "agrees": True}, f"{ref}: recipe and lock agree")
        return
    previous = read_lock(recipe.lock_path) if recipe.lock_path.exists() else None
    indexes = Indexes.from_machine(context.settings.environ)
    lock = resolve(
        recipe,
        indexes=indexes,
        http=Http(environ=indexes.environ),
        previous=previous,
        parent=_parent(context, recipe),
        upgrade=upgrade,
        date=(date or datetime.datetime.now(datetime.UTC)).date().isoformat(),
        store=context.store(),
        progress=context.terminal.progress,
    )
    if forget_built:
        lock = replace(lock, image=None, native=replace(lock.native, wheel=None) if lock.native else None)
    elif not _holds(lock):
        lock = replace(lock, image=None)
    changed = previous is None or lock_bytes(previous) != lock_bytes(lock)
    replace_file(recipe.lock_path, lock_bytes(lock))
    replace_file(recipe.path.with_name("requirements.txt"), requirements_txt(lock).encode())
    context.terminal.data(
        {
            "ref": ref,
            "path": str(recipe.lock_path),
            "changed": changed,
            "debian": len(lock.debian),
            "python": len(lock.python),
            "differences": check(recipe, lock),
        },
        f"{recipe.lock_path}: {len(lock.debian)} Debian and {len(lock.python)} Python packages"
        + ("" if changed else ", unchanged"),
    )


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


def _check_parent(context: Context, recipe: Recipe, lock: Lock) -> None:
    parent = _parent(context, recipe)
    differences = follows(lock, parent) if parent else []
    if differences:
        raise EnvbuildError(
            "lock-is-stale",
            f"{recipe.ref} extends {recipe.parent}, whose lock has moved:\n  " + "\n  ".join(differences),
            where=str(recipe.lock_path),
            hint=f"run `envbuild lock {recipe.ref}`",
            exit=Exit.INPUT,
        )


def _check_requirements(context: Context, recipe: Recipe) -> None:
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
