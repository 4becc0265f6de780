"""Agreement of pins: what the recipe says of CUDA, cuDNN and NCCL against torch's own wheel and what was resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser

from packaging.markers import UndefinedComparison
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe.model import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pin:
    """One pin: the recipe's key and value, the packages that decide it, and how many numbers count."""

    key: str
    value: str
    packages: re.Pattern[str]
    what: str
    numbers: int | None


def cuda_requirements(metadata: str, python: str) -> list[Requirement]:
    """The requirements in a wheel's METADATA that hold on Linux, x86-64 and CPython ``python``, without an extra."""
    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython",
        "platform_python_implementation": "CPython", "implementation_version": f"{python}.0",
        "os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64",
        "platform_release": "", "platform_version": "", "extra": "",
    }  # fmt: skip
    found = []
    for text in HeaderParser().parsestr(metadata).get_all("Requires-Dist") or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if _holds(requirement, environment):
            found.append(requirement)
    return found


def _holds(requirement: Requirement, environment: dict[str, str]) -> bool:
    """Whether its marker does; one that compares what has no order (``os_name > "x"``) does not."""
    try:
        return requirement.marker is None or requirement.marker.evaluate(environment)
    except UndefinedComparison:
        return False


def check_pins(recipe: Recipe, requirements: Sequence[Requirement], resolved: Mapping[str, str]) -> None:
    """Refuse a recipe whose CUDA, cuDNN or NCCL is not what torch's wheel requires or what was resolved.

    torch up to 2.10 requires ``nvidia-*-cu12`` with exact versions; from 2.11 the CUDA libraries come through
    extras of ``cuda-toolkit``, whose version then decides.

    Args:
        recipe: what a person pinned.
        requirements: torch's (:func:`cuda_requirements`).
        resolved: versions by canonical name.

    Raises:
        EnvbuildError: exit 3, with both values and where each comes from.
    """
    wheel = f"torch {recipe.torch.version}'s wheel"
    for pin in _pins(recipe):
        required = [item for item in requirements if pin.packages.fullmatch(canonicalize_name(item.name))]
        if not required:
            raise EnvbuildError(
                "torch-without-cuda", f"{wheel} requires no {pin.what}: it is not a CUDA build",
                hint="The index offers a CPU build of torch: use one with the CUDA builds (ENVBUILD_PYTHON_INDEX).",
                exit=Exit.INPUT, where=recipe.where("torch.version"),
            )  # fmt: skip
        for requirement in required:
            exact = [item.version for item in requirement.specifier if item.operator == "=="]
            for version in exact:
                if not _agree(pin, version):
                    raise _contradiction(recipe, pin, version, f"{wheel} requires {_plain(requirement)}")
            name = canonicalize_name(requirement.name)
            if name in resolved and not _agree(pin, resolved[name]):
                raise _contradiction(recipe, pin, resolved[name], f"{name} {resolved[name]} was resolved")


def _pins(recipe: Recipe) -> list[_Pin]:
    cuda = recipe.cuda
    return [
        _Pin(
            key="cuda.version", value=cuda.version, what="CUDA runtime", numbers=2,
            packages=re.compile(r"nvidia-cuda-runtime(-cu\d+)?|cuda-toolkit"),
        ),
        _Pin(
            key="cuda.cudnn", value=cuda.cudnn, what="cuDNN", numbers=None,
            packages=re.compile(r"nvidia-cudnn(-cu\d+)?")
        ),
        _Pin(
            key="cuda.nccl", value=cuda.nccl, what="NCCL", numbers=None, packages=re.compile(r"nvidia-nccl(-cu\d+)?")
        ),
    ]  # fmt: skip


def _agree(pin: _Pin, version: str) -> bool:
    if pin.numbers is None:
        return Version(version.removesuffix(".*")) == Version(pin.value)
    return _leading(version, pin.numbers) == _leading(pin.value, pin.numbers)


def _leading(version: str, count: int) -> tuple[int, ...]:
    return Version(version.removesuffix(".*")).release[:count]


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _contradiction(recipe: Recipe, pin: _Pin, version: str, source: str) -> EnvbuildError:
    wanted = (
        version if pin.numbers is None else ".".join(str(part) for part in _leading(version, pin.numbers))
    )
    key = pin.key.partition(".")[2]
    return EnvbuildError(
        "pins-contradict", f"{pin.key} is {pin.value} ({recipe.where(pin.key)}), but {source}",
        hint=f'Write {key} = "{wanted}" under [cuda], or pin a torch that wants {pin.what} {pin.value}.',
        exit=Exit.INPUT, where=recipe.where(pin.key),
    )  # fmt: skip
