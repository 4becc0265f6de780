"""A small recipe with locks that name no real package, for golden files."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from envbuild.lock import Artifact, CondaChannel, CondaLock, CondaPackage, Lock, NativeLock
from envbuild.recipe import Recipe, Ref, load_recipe

ROOT = Path(__file__).parents[2]
CHANNEL = "https://conda.invalid/small"


def sha256(text: str | bytes) -> str:
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def wheel(name: str, version: str = "1.0") -> Artifact:
    return Artifact(
        kind="wheel", name=name, version=version, file=f"{name}-{version}-py3-none-any.whl", size=1,
        sha256=sha256(name), index="python",
    )  # fmt: skip


def conda_package(name: str, version: str, *depends: str, subdir: str = "linux-64") -> CondaPackage:
    return CondaPackage(
        name=name, version=version, build="h0_0", build_number=0, subdir=subdir,
        file=f"{name}-{version}-h0_0.conda", size=1, sha256=sha256(name), md5="0" * 32, channel="small",
        depends=depends,
    )  # fmt: skip


def small_recipe(tag: str = "v2.7") -> Recipe:
    """The real recipe of that tag."""
    return load_recipe(Ref(name="pytorch-cuda", tag=tag), [ROOT / "recipes"])


def small_lock(recipe: Recipe) -> Lock:
    """A lock of the recipe with two packages, and DeepSpeed's source where the recipe has DeepSpeed."""
    sdist = replace(wheel("deepspeed", "0.19.8"), kind="sdist", file="deepspeed-0.19.8.tar.gz")
    native = NativeLock(source=sdist, toolchain=(), build=(wheel("setuptools"),), wheel=None)
    return Lock(
        format=2, ref=recipe.ref, recipe=recipe.to_dict(), resolved="2026-11-20", created="2026-11-20T00:00:00Z",
        debian=(), python=(wheel("tqdm"), wheel("torch", "2.7.1")), image=None,
        native=native if recipe.deepspeed else None,
    )  # fmt: skip


def small_conda(ref: Ref) -> CondaLock:
    """An interpreter of three packages, and one that has nothing to do with it."""
    return CondaLock(
        format=1, ref=ref, recipe={}, platform="linux-64",
        channels=(CondaChannel(name="small", url=f"{CHANNEL}/"),), virtual={"__glibc": "2.28"},
        exclude_newer="2026-11-20T00:00:00Z", specs=("python 3.11.*",),
        packages=(
            conda_package("libz", "1.3"),
            conda_package("other", "5", "python"),
            conda_package("python", "3.11.9", "libz >=1", "tzdata", "__glibc >=2.17"),
            conda_package("tzdata", "2026a", subdir="noarch"),
        ),
    )  # fmt: skip


def bare(recipe: Recipe) -> Recipe:
    """The recipe without DeepSpeed and without parts, under another name."""
    return replace(recipe, ref=Ref(name="small", tag="v1"), deepspeed=None, parts=())
