"""``envbuild gc``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from envbuild.cli.context import Context, common
from envbuild.cli.terminal import size
from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock, Lock, read_conda_lock, read_lock
from envbuild.recipe import list_recipes
from envbuild.recipe.suggest import nearest
from envbuild.sandbox import Sandbox
from envbuild.store import Keep, Store, collect


@click.command()
@click.option("--all", "everything", is_flag=True, help="Keep only what a named image needs, no artifacts.")
@click.option(
    "--forget",
    multiple=True,
    metavar="NAME",
    help="Forget this name of an image first, as `envbuild pull` gave it (repeatable).",
)
@common
def command(context: Context, everything: bool, forget: tuple[str, ...]) -> None:
    """Remove from the store what no image name and no lock of a known recipe needs.

    Images that have a name are kept, pulled ones too, until --forget. Artifacts that a lock names are kept too, so that
    a rebuild fetches nothing; --all removes them as well.
    """
    store = context.store()
    for name in forget:
        _forget(store, name)
    recipes = list_recipes(context.settings.recipes)
    locks = [read_lock(r.lock_path) for r in recipes if r.lock_path.exists()]
    conda = [read_conda_lock(r.conda_lock_path) for r in recipes if r.conda_lock_path.exists()]
    keep = Keep() if everything else keep_of(locks, conda)
    freed = collect(
        store,
        keep,
        progress=context.terminal.progress,
        remove_root=lambda p: Sandbox.detect().remove(p),
    )
    value = freed.to_dict()
    context.terminal.data(
        value,
        f"freed {size(freed.bytes)}: {freed.artifacts} artifacts, {freed.blobs} blobs, {freed.roots} roots",
    )


def _forget(store: Store, name: str) -> None:
    if name not in store.layout.tags():
        near = nearest(name, store.layout.tags())
        raise EnvbuildError(
            "no-such-image",
            f"the store knows no image by the name {name}",
            where=str(store.layout.root),
            hint=f"did you mean {near[0]}?" if near else "oci/index.json in the store has the names",
            exit=Exit.INPUT,
        )
    store.layout.untag(name)


def keep_of(locks: Sequence[Lock], conda: Sequence[CondaLock] = ()) -> Keep:
    """What locks name: artifacts, the image's blobs, and the roots that are used to build again."""
    artifacts = {package.sha256 for lock in conda for package in lock.packages}
    artifacts |= {source.sha256 for lock in conda for source in lock.pip}
    digests: set[str] = set()
    roots: set[str] = set()
    for lock in locks:
        artifacts |= {a.sha256 for a in (*lock.debian, *lock.python)}
        if lock.native is not None:
            native = lock.native
            artifacts |= {a.sha256 for a in (native.source, *native.toolchain, *native.build)}
            artifacts |= {native.wheel.sha256} if native.wheel else set()
        if lock.image is not None:
            digests |= {lock.image.digest, lock.image.config, *(layer.digest for layer in lock.image.layers)}
            roots |= {layer.diff_id for layer in lock.image.layers}
    return Keep(digests=frozenset(digests), roots=frozenset(roots), artifacts=frozenset(artifacts))
