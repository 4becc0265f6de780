"""Which recipes changed since a commit, by asking git: what CI need not build again."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe.load import load_recipe
from envbuild.recipe.model import Recipe

_FILES = ("recipe.toml", "lock.json")
"""What an image is made of. The conda lock makes no image."""


def changed_since(
    commit: str, recipes: Sequence[Recipe], folders: Sequence[Path], environ: Mapping[str, str]
) -> list[Recipe]:
    """Those of ``recipes`` whose files differ from what they were at ``commit``, or those of a recipe that they extend.

    What is compared is the working tree, with what is not committed: a new recipe is a changed one.

    Args:
        commit: whatever git takes for one: a branch, a tag, a hash, ``HEAD~3``.
        recipes: the recipes to ask about.
        folders: where the recipes that they extend are looked for.
        environ: git's environment.

    Raises:
        EnvbuildError: exit 2: there is no git, a recipe lies in no checkout, or the checkout has no such commit.
    """
    asked: dict[Path, bool] = {}

    def changed(recipe: Recipe) -> bool:
        folder = recipe.path.resolve().parent
        if folder not in asked:
            asked[folder] = _differs(folder, commit, environ)
        return asked[folder] or (
            recipe.parent is not None and changed(load_recipe(recipe.parent, list(folders)))
        )

    return [recipe for recipe in recipes if changed(recipe)]


def _differs(folder: Path, commit: str, environ: Mapping[str, str]) -> bool:
    """Whether git sees another content of the recipe's files than at ``commit``, or a file that it does not know."""
    inside = _git(folder, environ, "rev-parse", "--is-inside-work-tree")
    if inside.returncode or inside.stdout.strip() != "true":
        raise EnvbuildError(
            "no-git-checkout",
            f"{folder} lies in no git checkout, so git cannot tell what changed since {commit}: "
            + (inside.stderr.strip() or "it is no working tree"),
            where=str(folder),
            hint="leave --changed-since away for all recipes, or name the checkout's: `--recipes DIR`",
            exit=Exit.USAGE,
        )
    found = _git(
        folder, environ, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}"
    )
    if found.returncode:
        raise EnvbuildError(
            "no-such-commit",
            f"this checkout has no commit {commit!r}",
            where=str(folder),
            hint=f"in a shallow checkout bring it first: `git fetch --depth 1 origin {commit}`",
            exit=Exit.USAGE,
        )
    tree = found.stdout.strip()
    same = _git(folder, environ, "diff", "--quiet", "--no-ext-diff", tree, "--", *_FILES)
    if same.returncode not in (0, 1):
        raise _failed(folder, same)
    unknown = _git(folder, environ, "ls-files", "--others", "--", *_FILES)
    if unknown.returncode:
        raise _failed(folder, unknown)
    return bool(same.returncode or unknown.stdout.strip())


def _git(folder: Path, environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env={**environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise EnvbuildError(
            "no-git",
            "there is no git on the PATH",
            hint="install git, or leave --changed-since away for all recipes",
            exit=Exit.USAGE,
        ) from None


def _failed(folder: Path, run: subprocess.CompletedProcess[str]) -> EnvbuildError:
    return EnvbuildError(
        "git-failed",
        f"git ended with {run.returncode}: {run.stderr.strip()}",
        where=str(folder),
        hint="run `git status` there: it says what is wrong with the checkout",
        exit=Exit.USAGE,
    )
