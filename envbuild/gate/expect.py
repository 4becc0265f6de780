"""What must be true inside an image: expectations from recipe and lock, for the suite."""

from __future__ import annotations

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Lock
from envbuild.recipe.model import Recipe
from envbuild.smoke.cuda import DRIVER_FLOOR, LIBRARY_PACKAGES, version_of
from envbuild.smoke.model import Expectations, Library, Operator

_OPERATOR = "fused_adam"


def expect(recipe: Recipe, lock: Lock, *, gpus_given: int | None = None) -> Expectations:
    """Write down what the suite must find. A pure function.

    Args:
        recipe: what was asked for: CUDA, architectures, how many GPUs.
        lock: what it was resolved to.
        gpus_given: how many GPUs the engine hands to the container; ``None`` when that is not known.

    Raises:
        EnvbuildError: exit 3 when the lock lacks a CUDA library that recipe and torch need.
    """
    packages = {wheel.name: wheel.version for wheel in lock.python}
    if lock.native is not None:
        packages["deepspeed"] = (lock.native.wheel or lock.native.source).version
    modules = ("torch", "torchvision", "triton", "deepspeed")
    hashed = [
        name for name in packages if name.startswith("nvidia-") or name in ("torch", "triton", "deepspeed")
    ]
    return Expectations(
        ref=str(recipe.ref),
        complete=True,
        declared=_declared(recipe),
        packages=packages,
        hashed=tuple(sorted(hashed)),
        imports=tuple(name for name in modules if name in packages),
        cuda=recipe.cuda.version,
        libraries=tuple(_libraries(recipe, packages)),
        operator=_operator(recipe),
        driver_floor=DRIVER_FLOOR.get(str(recipe.cuda.major)),
        gpus_wanted=recipe.gate.gpus,
        gpus_given=gpus_given,
    )


def _declared(recipe: Recipe) -> dict[str, str]:
    """What a person pinned, by what a process loads. The recipe names the toolkit's ``major.minor`` only."""
    pins = {
        "torch": recipe.torch.version,
        "libcudart": recipe.cuda.version,
        "libcudnn": recipe.cuda.cudnn,
        "libnccl": recipe.cuda.nccl,
    }
    return pins if recipe.deepspeed is None else {**pins, "deepspeed": recipe.deepspeed.version}


def _libraries(recipe: Recipe, packages: dict[str, str]) -> list[Library]:
    found = []
    for stem, names in LIBRARY_PACKAGES.items():
        candidates = [name.format(major=recipe.cuda.major) for name in names]
        package = next((name for name in candidates if name in packages), None)
        if package is None:
            raise EnvbuildError(
                "library-not-locked",
                f"the lock has no package for {stem} (looked for {' and '.join(candidates)})",
                where=str(recipe.lock_path),
                hint=f"run `envbuild lock {recipe.ref}`; torch's CUDA wheel requires it",
                exit=Exit.INPUT,
            )
        found.append(Library(stem=stem, package=package, version=version_of(packages[package])))
    return found


def _operator(recipe: Recipe) -> Operator | None:
    if recipe.deepspeed is None or _OPERATOR not in recipe.deepspeed.operators:
        return None
    tag = "cpython-" + recipe.python.version.replace(".", "")
    return Operator(
        name=_OPERATOR,
        module=f"deepspeed.ops.adam.{_OPERATOR}_op",
        file=f"deepspeed/ops/adam/{_OPERATOR}_op.{tag}-x86_64-linux-gnu.so",
        architectures=recipe.deepspeed.architectures,
    )
