"""What a recipe asks of conda: MatchSpecs, and for each the key of the recipe that it comes from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe.conda import spec_name
from envbuild.recipe.model import Recipe

BUILD = ("pip", "setuptools", "wheel")
"""What pip needs in the environment to build DeepSpeed's source there without isolation."""

FROM_PIP = ("ninja",)
"""What DeepSpeed needs and conda-forge has as a program only, without the metadata by which pip knows a package: in an
environment with DeepSpeed it comes from pip, and not from conda, since both would write the same program."""

KERNEL = "4.18"
"""``__linux`` of a lock: the kernel of RHEL 8, the oldest system with glibc 2.28."""

ARCHITECTURE = "1=x86_64"
"""``__archspec`` of a lock: any x86-64 processor."""

_NAME = re.compile(r"[^A-Za-z0-9._-]")
_LINUX = {
    "implementation_name": "cpython", "platform_python_implementation": "CPython", "os_name": "posix",
    "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "platform_release": "",
    "platform_version": "", "extra": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A MatchSpec that is asked for. ``key`` is the dotted key of the recipe, ``why`` says it in words."""

    text: str
    key: str
    why: str

    @property
    def name(self) -> str:
        """The package's name."""
        return spec_name(self.text)


def interpreter_specs(recipe: Recipe) -> tuple[Spec, ...]:
    """Python alone."""
    version = recipe.python.version
    return (Spec(text=f"python {version}.*", key="python.version", why=f"Python {version}"),)


def environment_specs(recipe: Recipe, needs: Iterable[str]) -> tuple[Spec, ...]:
    """The whole environment; of one name that several tables ask for, every spec stands.

    Args:
        recipe: its pins, with the declared differences.
        needs: DeepSpeed's requirements (PEP 508).

    Raises:
        EnvbuildError: exit 3, a requirement that conda cannot express.
    """
    found = [*interpreter_specs(recipe), *_pins(recipe)]
    for position, text in enumerate(recipe.python.packages):
        found += _requirement(recipe, text, f"python.packages[{position}]", text)
    for part in recipe.parts:
        found += [Spec(text=text, key="parts", why=f'the part "{part.name}"') for text in part.conda]
    for position, text in enumerate(recipe.conda.packages):
        found.append(Spec(text=text, key=f"conda.packages[{position}]", why=text))
    if recipe.deepspeed is not None:
        why = f"DeepSpeed {recipe.deepspeed.version}"
        for text in needs:
            found += _requirement(recipe, text, "deepspeed.version", f"{why} ({text})")
        found += [Spec(text=name, key="deepspeed.version", why=f"{why}, which pip builds") for name in BUILD]
        found = [spec for spec in found if spec.name not in FROM_PIP]
    return tuple({spec.text: spec for spec in reversed(found)}.values())[::-1]


def pip_requirements(recipe: Recipe, needs: Iterable[str]) -> tuple[str, ...]:
    """What pip is to bring besides DeepSpeed: requirements (PEP 508) on names of ``FROM_PIP``, whoever asks for them.

    None where the environment has no DeepSpeed.

    Args:
        recipe: its pins; what it leaves out of the environment counts all the same, since DeepSpeed needs it.
        needs: DeepSpeed's requirements (PEP 508).

    Raises:
        EnvbuildError: exit 3, a MatchSpec that is no requirement.
    """
    if recipe.deepspeed is None or not recipe.makes_environment:
        return ()
    asked = [(f"python.packages[{at}]", text) for at, text in enumerate(recipe.python.packages)]
    asked += [("parts", text) for part in recipe.parts for text in part.conda]
    asked += [(f"conda.packages[{at}]", text) for at, text in enumerate(recipe.conda.packages)]
    asked += [("deepspeed.version", text) for text in needs]
    asked += [("conda.versions", f"{name}=={version}") for name, version in recipe.conda.versions.items()]
    found = [_as_requirement(recipe, key, text) for key, text in asked if _plain_name(text) in FROM_PIP]
    return tuple(dict.fromkeys(found))


def virtual(recipe: Recipe) -> dict[str, str]:
    """What a machine must have, said outright: the solver never looks at the one that it runs on."""
    found = {"__archspec": ARCHITECTURE, "__glibc": recipe.conda.glibc, "__linux": KERNEL, "__unix": "0"}
    return {"__cuda": recipe.cuda.version, **found} if recipe.makes_environment else found


def pinned_version(recipe: Recipe, name: str, own: str) -> str:
    """The version that the environment is to have of a pin: the declared one, or the recipe's own."""
    return recipe.conda.versions.get(name, own)


def holds(pinned: str, version: str) -> bool:
    """Whether a record's version is the pinned one, or continues it after a dot (2.26.2: 2.26.2.1)."""
    return version == pinned or version.startswith(f"{pinned}.")


def conda_name(name: str) -> str:
    """A Python package's name on conda-forge."""
    text = resources.files(__package__).joinpath("names.toml").read_text(encoding="utf-8")
    known: dict[str, str] = tomllib.loads(text)
    canonical = str(canonicalize_name(name))
    return known.get(canonical, canonical)


def _plain_name(text: str) -> str:
    """The name that a requirement or a MatchSpec starts with."""
    return canonicalize_name(_NAME.split(text.strip(), maxsplit=1)[0])


def _as_requirement(recipe: Recipe, key: str, text: str) -> str:
    try:
        return str(Requirement(text))
    except InvalidRequirement:
        name = _plain_name(text)
        raise EnvbuildError(
            "no-pip-equivalent", f'{key}: "{text}" is no Python requirement, and {name} comes from pip, with DeepSpeed',
            hint=f'write it as one, such as "{name} >=1.11", or remove it: DeepSpeed brings {name}',
            exit=Exit.INPUT, where=recipe.where(key),
        ) from None  # fmt: skip


def _pins(recipe: Recipe) -> Iterator[Spec]:
    torch, cuda = recipe.torch, recipe.cuda
    build = f"cuda{cuda.version.replace('.', '')}*"
    why = f"PyTorch {torch.version} for CUDA {cuda.version}"
    yield Spec(text=f"pytorch =={torch.version} {build}", key="torch.version", why=why)
    yield Spec(text=f"cuda-version {cuda.version}.*", key="cuda.version", why=f"CUDA {cuda.version}")
    for name, own, what in (("cudnn", cuda.cudnn, "cuDNN"), ("nccl", cuda.nccl, "NCCL")):
        version = pinned_version(recipe, name, own)
        key = f"conda.versions.{name}" if name in recipe.conda.versions else f"cuda.{name}"
        yield Spec(text=f"{name} {version}.*", key=key, why=f"{what} {version}")
    if torch.torchvision and "torchvision" not in recipe.conda.without:
        version = pinned_version(recipe, "torchvision", torch.torchvision)
        declared = "torchvision" in recipe.conda.versions
        key = "conda.versions.torchvision" if declared else "torch.torchvision"
        yield Spec(text=f"torchvision =={version}", key=key, why=f"torchvision {version}")


def _requirement(recipe: Recipe, text: str, key: str, why: str) -> Iterator[Spec]:
    """A Python requirement as a MatchSpec: none where its marker does not hold, or the recipe leaves it out."""
    requirement = Requirement(text)
    name = canonicalize_name(requirement.name)
    version = recipe.python.version
    environment = {**_LINUX, "python_version": version, "python_full_version": f"{version}.0"}
    if requirement.marker is not None and not requirement.marker.evaluate(environment):
        return
    if name == "torch" or name in recipe.conda.without:
        return
    if requirement.extras or any(item.operator == "===" for item in requirement.specifier):
        raise EnvbuildError(
            "no-conda-equivalent", f'{key}: conda cannot express "{text}": its packages have no extras',
            hint="Write what it brings to [conda] packages, and leave it out there: without = [\""
            f'{name}"].', exit=Exit.INPUT, where=recipe.where(key),
        )  # fmt: skip
    if name in recipe.conda.versions:
        yield Spec(
            text=f"{conda_name(name)} =={recipe.conda.versions[name]}", key=f"conda.versions.{name}", why=why
        )
        return
    clauses = ",".join(sorted(str(item) for item in requirement.specifier))
    yield Spec(text=f"{conda_name(name)} {clauses}".strip(), key=key, why=why)
