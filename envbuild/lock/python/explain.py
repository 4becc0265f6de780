"""Why Python packages could not be resolved, in the recipe's terms."""

from __future__ import annotations

import re
from collections.abc import Sequence

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.python import simple, uv
from envbuild.recipe.model import Recipe
from envbuild.recipe.suggest import listed, nearest_versions
from envbuild.store import Http

_NO_VERSION = re.compile(r"no versions? of ([A-Za-z0-9._-]+?)(?:\[[^]]*\])?==([^\s,]+)")
_TOO_NEW = re.compile(
    r"`([A-Za-z0-9._-]+)` was filtered by .* version, v?(\S+), was published at (\S+?)(?:\.\d+)?Z?\. "
)
_NO_WHEEL = re.compile(r"\b([A-Za-z0-9._-]+)==(\S+) has no (?:usable )?wheels")
_UNKNOWN = re.compile(r"\b([A-Za-z0-9._-]+) was not found in the package registry")


def unsolvable(
    recipe: Recipe, text: str, indexes: Sequence[str], http: Http, *, before: str | None
) -> EnvbuildError:
    """The error for uv's explanation ``text``: nearest versions where one does not exist, else the explanation."""
    late = _TOO_NEW.search(text)
    if late:
        name = canonicalize_name(late.group(1))
        return EnvbuildError(
            "too-new", f"{name} {late.group(2)} was uploaded at {late.group(3)}Z, after the cut-off {before}",
            hint="Pin an older version, or lock with a later date.", exit=Exit.INPUT, where=_where(recipe, name),
        )  # fmt: skip
    wheelless = _NO_WHEEL.search(text)
    if wheelless:
        return no_wheel(recipe, canonicalize_name(wheelless.group(1)), wheelless.group(2))
    missing = _NO_VERSION.search(text)
    if missing:
        name = canonicalize_name(missing.group(1))
        offered = [item for item in simple.project(name, indexes, http) if item.is_wheel]
        return no_version(recipe, name, missing.group(2).rstrip("."), offered, before=before)
    unknown = _UNKNOWN.search(text)
    if unknown:
        name = canonicalize_name(unknown.group(1))
        return EnvbuildError(
            "no-such-package", f"Python's index has no package {name}",
            hint="Correct the name, or set ENVBUILD_PYTHON_INDEX to an index that has it.",
            exit=Exit.INPUT, where=_where(recipe, name),
        )  # fmt: skip
    return EnvbuildError(
        "python-unsolvable", f"no set of Python packages fits the recipe:\n{text}",
        hint="Loosen or correct one of the versions named above in recipe.toml.", exit=Exit.INPUT,
        where=str(recipe.path),
    )  # fmt: skip


def no_version(
    recipe: Recipe, name: str, version: str, offered: Sequence[simple.ProjectFile], *, before: str | None
) -> EnvbuildError:
    """The error for a version that the index does not have, with the nearest that it has."""
    existing = [item for item in simple.versions(offered, before=before) if item != version]
    near = nearest_versions(version, existing)
    hint = f"Nearest: {listed(near)}." if near else f"The index offers no {name} that can be used."
    when = f" (uploaded before {before})" if before else ""
    return EnvbuildError(
        "no-such-version", f"Python's index has no {name} {version}{when}", hint=hint, exit=Exit.INPUT,
        where=_where(recipe, name),
    )  # fmt: skip


def no_wheel(recipe: Recipe, name: str, version: str, platform: str = uv.PLATFORM) -> EnvbuildError:
    """The error for a package without a wheel that the image, or an environment on ``platform``, can use."""
    target = f"CPython {recipe.python.version} on {platform}"
    return EnvbuildError(
        "no-wheel", f"{name} {version} has no wheel for {target}", exit=Exit.INPUT, where=_where(recipe, name),
        hint="Pin another version, or put a wheel on an index of your own: only DeepSpeed is compiled here.",
    )  # fmt: skip


def no_hash(package: uv.Package) -> EnvbuildError:
    """The error for an index that gives no sha256."""
    return EnvbuildError(
        "no-hash", f"Python's index gives no sha256 for {package.name} {package.version}",
        hint="Use an index with sha256 hashes (PEP 503): ENVBUILD_PYTHON_INDEX.", exit=Exit.INPUT,
    )  # fmt: skip


def _where(recipe: Recipe, name: str) -> str:
    keys = {"torch": "torch.version", "torchvision": "torch.torchvision", "deepspeed": "deepspeed.version"}
    if name in keys:
        return recipe.where(keys[name])
    if name.startswith(("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-cccl")):
        return recipe.where("cuda.version")
    for position, text in enumerate(recipe.python.packages):
        if canonicalize_name(Requirement(text).name) == name:
            return recipe.where(f"python.packages[{position}]")
    return str(recipe.path)
