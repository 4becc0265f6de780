"""A conda environment as files that other programs read: environment.yml, pip's part, an explicit list, conda-lock.yml.

All from the conda lock; docs/reference/render.md says who reads and verifies what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock, CondaPackage
from envbuild.lock.conda.model import dependency_names
from envbuild.recipe import Recipe, Ref
from envbuild.render.condalock import conda_lock_yml
from envbuild.render.text import one_line, template_text

COMMITTED = Ref(name="ds-train", tag="v2.7")
"""The recipe whose environment lies at the repository's top."""

FILES = {
    "environment": "environment.yml",
    "deepspeed": "environment.deepspeed.txt",
    "explicit": "environment.explicit.txt",
    "conda-lock": "conda-lock.yml",
}
"""Every format, and the name of the file at the repository's top."""


def conda_files(recipe: Recipe, conda: CondaLock) -> dict[str, str]:
    """The files at the repository's top: relative path → text; none for a recipe other than ``COMMITTED``.

    Args:
        recipe: the recipe.
        conda: its conda lock, made from this recipe.

    Raises:
        EnvbuildError: as for :func:`conda_export`.
    """
    if recipe.ref != COMMITTED:
        return {}
    return {
        name: conda_export(recipe, conda, form)
        for form, name in FILES.items()
        if conda.pip or form != "deepspeed"
    }


def conda_export(recipe: Recipe, conda: CondaLock, form: str) -> str:
    """One file of a recipe's environment.

    Args:
        recipe: a recipe that makes an environment.
        conda: its conda lock, made from this recipe.
        form: which file, a key of ``FILES``.

    Raises:
        EnvbuildError: exit 3: the recipe makes no environment, its environment has no DeepSpeed, or the channel gives
            a package no md5, which conda-lock asks for.
    """
    if not recipe.makes_environment:
        raise EnvbuildError(
            "makes-no-environment",
            f"{recipe.ref} makes no conda environment",
            where=recipe.where("makes"),
            hint='add "environment" to makes in the recipe and run `envbuild lock`, or see `envbuild list`',
            exit=Exit.INPUT,
        )
    head = _head(recipe, conda, form)
    if form == "environment":
        return _environment(conda, head)
    if form == "explicit":
        return template_text(
            "environment.explicit.txt.j2", {**head, "urls": explicit_urls(conda, conda.packages)}
        )
    if form == "conda-lock":
        asked = _environment(replace(conda, pip=()), head)
        return template_text("conda-lock.yml.j2", head) + conda_lock_yml(conda, asked)
    if not conda.pip:
        raise EnvbuildError(
            "no-deepspeed",
            f"the environment of {recipe.ref} has nothing from pip",
            where=str(recipe.conda_lock_path),
            hint="the other formats hold all of it: `--format environment`, `explicit` or `conda-lock`",
            exit=Exit.INPUT,
        )
    return template_text("environment.deepspeed.txt.j2", {**head, "artifacts": conda.pip})


def explicit_urls(
    conda: CondaLock, packages: Iterable[CondaPackage], hashes: Literal["md5", "sha256"] = "md5"
) -> list[str]:
    """Addresses with their hashes, as ``conda create --file`` takes them, each after what it needs.

    Args:
        conda: the lock that the packages are of.
        packages: any of them.
        hashes: ``md5`` is what every conda, mamba and micromamba reads; conda before 24.9 and mamba before 2 know no
            sha256. A package that its channel gives no md5 has its sha256.
    """
    lines = []
    for package in in_order(packages):
        md5 = package.md5 if hashes == "md5" else None
        lines.append(f"{conda.url(package)}#{md5 or f'sha256:{package.sha256}'}")
    return lines


def in_order(packages: Iterable[CondaPackage]) -> tuple[CondaPackage, ...]:
    """The packages, each after those that it needs; what may stand in any order stands by name.

    Python may need packages that need Python themselves (pip, setuptools): Python comes first then.
    """
    by_name = {package.name: package for package in packages}
    done: dict[str, CondaPackage] = {}
    entered: set[str] = set()

    def visit(name: str) -> None:
        if name in entered or name not in by_name:
            return
        entered.add(name)
        package = by_name[name]
        for needed in sorted(dependency_names(package)):
            if name != "python" or "python" not in dependency_names(by_name.get(needed, package)):
                visit(needed)
        done[name] = package

    for name in sorted(by_name):
        visit(name)
    return tuple(done.values())


def _environment(conda: CondaLock, head: Mapping[str, object]) -> str:
    return template_text("environment.yml.j2", {**head, "conda": conda, "pip": bool(conda.pip)})


def _head(recipe: Recipe, conda: CondaLock, form: str) -> dict[str, object]:
    """What the comments at the top of every file say."""
    ref = recipe.ref
    rendered = ref == COMMITTED
    return {
        "ref": ref,
        "name": f"{ref.name}-{ref.tag}",
        "description": one_line(recipe.description),
        "declared": _declared(recipe),
        "command": f"envbuild render {ref}" if rendered else f"envbuild export {ref} --format {form}",
        "checked": rendered,
        "file": FILES,
        "deepspeed": FILES["deepspeed"] if conda.pip else None,
        "from_pip": " and ".join(item.name for item in conda.pip).replace("deepspeed", "DeepSpeed"),
        "platform": conda.platform,
        "solved_for": ", ".join(
            f"{name} {text.replace('=', ' ')}" for name, text in sorted(conda.virtual.items())
        ),
        "cuda": conda.virtual.get("__cuda"),
    }


def _declared(recipe: Recipe) -> str:
    """The differences from the image that the recipe declares, in words; empty where it makes none."""
    if not recipe.makes_image:
        return ""
    versions = [f"{name} {version}" for name, version in sorted(recipe.conda.versions.items())]
    return ", ".join([*versions, *(f"no {name}" for name in recipe.conda.without)])
