"""Render, compare, write. Rendering is a pure function of recipe and locks."""

from __future__ import annotations

import difflib
import os
import re
from contextlib import suppress
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock, Lock
from envbuild.oci.disk import unless_full
from envbuild.recipe import Recipe
from envbuild.render.conda import conda_files
from envbuild.render.dockerfile import docker_files

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")


def render(recipe: Recipe, lock: Lock | None, conda: CondaLock) -> dict[str, str]:
    """The files of one recipe: relative path → text.

    Args:
        recipe: the recipe.
        lock: its lock, made from this recipe; ``None`` where the recipe makes no image.
        conda: its conda lock, made from this recipe.

    Raises:
        EnvbuildError: exit 3; no base image is known for the recipe's CUDA, or the conda lock lacks what a file needs.
    """
    files = docker_files(recipe, lock, conda) if lock is not None else {}
    return {**files, **conda_files(recipe, conda)}


def check(recipe: Recipe, lock: Lock | None, conda: CondaLock, folder: Path) -> list[str]:
    """Where the files under ``folder`` differ from what recipe and locks give: unified diffs, empty if nowhere.

    Each hunk starts with ``file:line`` of its first difference. A missing file counts as empty.
    """
    differences: list[str] = []
    for name, expected in render(recipe, lock, conda).items():
        path = folder / name
        seen = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        differences += _diff(name, seen, expected)
    return differences


def write(recipe: Recipe, lock: Lock | None, conda: CondaLock, folder: Path) -> list[str]:
    """Write the files that differ; returns their relative paths.

    Raises:
        EnvbuildError: exit 2; the folder cannot be written to. Exit 7: its disk is full.
    """
    changed: list[str] = []
    for name, text in render(recipe, lock, conda).items():
        path = folder / name
        if path.is_file() and path.read_bytes() == text.encode():
            continue
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(text.encode())
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            other = EnvbuildError(
                "cannot-write",
                f"{path} cannot be written: {error.strerror}",
                hint="run the command where the repository is yours to write",
                exit=Exit.USAGE,
            )
            raise unless_full(error, path, other, hint="free some space, then render again") from error
        changed.append(name)
    return changed


def _diff(name: str, seen: str, expected: str) -> list[str]:
    lines = list(
        difflib.unified_diff(
            seen.splitlines(),
            expected.splitlines(),
            f"{name} (there)",
            f"{name} (rendered)",
            lineterm="",
            n=1,
        )
    )
    if not lines and seen != expected:
        return [f"{name}:1: line ends differ"]
    marked: list[str] = []
    for position, line in enumerate(lines):
        hunk = _HUNK.match(line)
        if hunk:
            unchanged = lines[position + 1].startswith(" ")  # with n=1 at most one such line
            marked.append(f"{name}:{max(1, int(hunk.group(1)) + unchanged)}:")
        marked.append(line)
    return marked
