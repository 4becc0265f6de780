"""What every command starts from: settings, terminal, store, recipe, lock, and the way to the indexes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from envbuild.cli.settings import Settings, resolve
from envbuild.cli.terminal import Terminal
from envbuild.errors import EnvbuildError, Exit

if TYPE_CHECKING:
    from envbuild.image.workshop import Workshop
    from envbuild.lock.conda.model import CondaLock
    from envbuild.lock.model import Artifact, Lock
    from envbuild.recipe.model import Recipe
    from envbuild.store import Store

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Settings and terminal of one call."""

    settings: Settings
    terminal: Terminal

    def store(self) -> Store:
        """The store, opened."""
        from envbuild.store import Store

        return Store.open(self.settings.store)

    def recipe(self, ref: str) -> Recipe:
        """The recipe of ``name:tag``, or of ``name`` where it has one tag; checked."""
        from envbuild.recipe import find_ref, load_recipe

        return load_recipe(find_ref(ref, self.settings.recipes), self.settings.recipes)

    def lock(self, recipe: Recipe) -> Lock:
        """The lock of the recipe's image, which must exist and agree with the recipe.

        Every command that needs an image comes here: a recipe that makes none is refused in this place.

        Raises:
            EnvbuildError: exit 2 where the recipe makes no image; exit 3 where there is no lock, or they differ.
        """
        from envbuild.lock import check, read_lock

        if not recipe.makes_image:
            raise EnvbuildError(
                "makes-no-image",
                f"{recipe.ref} makes a conda environment and no image",
                where=recipe.where("makes"),
                hint=f"`envbuild env create {recipe.ref} --prefix DIR` makes the environment",
                exit=Exit.USAGE,
            )
        if not recipe.lock_path.exists():
            raise EnvbuildError(
                "no-lock",
                f"{recipe.ref} has no lock",
                where=str(recipe.lock_path),
                hint=f"run `envbuild lock {recipe.ref}`",
                exit=Exit.INPUT,
            )
        lock = read_lock(recipe.lock_path)
        differences = check(recipe, lock)
        if differences:
            raise EnvbuildError(
                "lock-is-stale",
                f"{recipe.ref}: recipe and lock differ:\n  " + "\n  ".join(differences),
                where=str(recipe.lock_path),
                hint=f"run `envbuild lock {recipe.ref}`",
                exit=Exit.INPUT,
            )
        return lock

    def conda_lock(self, recipe: Recipe) -> CondaLock:
        """The recipe's conda lock, which must exist and agree with the recipe.

        Raises:
            EnvbuildError: exit 3 where there is none, where it cannot be read, or where recipe and lock differ.
        """
        from envbuild.lock import check_conda, read_conda_lock

        hint = f"run `envbuild lock {recipe.ref} --only conda`"
        where = str(recipe.conda_lock_path)
        if not recipe.conda_lock_path.exists():
            raise EnvbuildError(
                "no-lock", f"{recipe.ref} has no conda lock", where=where, hint=hint, exit=Exit.INPUT
            )
        lock = read_conda_lock(recipe.conda_lock_path)
        differences = check_conda(recipe, lock)
        if differences:
            raise EnvbuildError(
                "lock-is-stale",
                f"{recipe.ref}: recipe and conda lock differ:\n  " + "\n  ".join(differences),
                where=where,
                hint=hint,
                exit=Exit.INPUT,
            )
        return lock

    def workshop(self, lock: Lock, store: Store) -> Workshop:
        """What assembling ``lock`` needs of this machine."""
        from envbuild.cli.registries import elsewhere_of
        from envbuild.image.workshop import Workshop
        from envbuild.lock import Indexes, sources_for
        from envbuild.sandbox import Sandbox
        from envbuild.store import Http, Wanted, fetch

        def bring(artifacts: Sequence[Artifact]) -> int:
            indexes = Indexes.from_machine(self.settings.environ)
            http = Http(environ=indexes.environ)
            progress = self.terminal.progress
            sources = sources_for(lock, artifacts, indexes=indexes, http=http, progress=progress)
            wanted = [
                Wanted(name=a.name, file=a.basename, sha256=a.sha256, size=a.size, sources=sources[a.sha256])
                for a in artifacts
            ]
            return fetch(store, wanted, http=http, jobs=max(4, self.settings.jobs), progress=progress)

        return Workshop(
            store=store,
            progress=self.terminal.progress,
            jobs=self.settings.jobs,
            fetch=bring,
            sandbox=functools.cache(Sandbox.detect),
            elsewhere=elsewhere_of(self, store),
        )


def common(function: _Function) -> _Function:
    """Give a command ``--json --quiet --recipes --store`` and a :class:`Context` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
    @click.option("--quiet", "-q", is_flag=True, help="No progress on stderr; errors only.")
    @click.option(
        "--recipes",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        multiple=True,
        metavar="DIR",
        help="Where recipes are [default: ./recipes, then envbuild's own].",
    )
    @click.option(
        "--store",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Where artifacts and images are kept [default: the user's cache folder].",
    )
    @click.option("--jobs", type=click.IntRange(1), metavar="N", help="Threads and processes [default: all].")
    @functools.wraps(function)
    def wrapper(
        as_json: bool,
        quiet: bool,
        recipes: tuple[Path, ...],
        store: Path | None,
        jobs: int | None,
        **rest: Any,
    ) -> Any:
        settings = resolve(os.environ, store=store, recipes=recipes, json=as_json, quiet=quiet, jobs=jobs)
        return function(Context(settings=settings, terminal=Terminal(json=as_json, quiet=quiet)), **rest)

    return wrapper  # type: ignore[return-value]  # click's decorators change the signature
