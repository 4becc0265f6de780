"""The recipe's own pins in each form: what the forms must agree in, apart from what the recipe declares."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from envbuild.difference.inventory import Ecosystem, Fact, Inventory
from envbuild.difference.names import common_name, same_version
from envbuild.recipe.model import Recipe

Status = Literal["agree", "declared", "differ", "not compiled", "unknown"]

_COMPILED = ("operators", "architectures")
_RUNTIME = ("nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime")
_CONDA_CUDA = re.compile(r"cuda(\d+)(\d)_")
_WHEEL_CUDA = re.compile(r"\+cu(\d+)(\d)$")
_FIXED = ("python", "torch", "torchvision", "cuda", "cudnn", "nccl", "deepspeed", *_COMPILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One form's value of one pin.

    ``values`` are what the form says, in the order in which it says it; one unless it contradicts itself. ``sources``
    say where. ``why`` is set where it differs, or where a difference is declared.
    """

    values: tuple[str, ...]
    sources: tuple[str, ...]
    status: Status
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One pin: the recipe's value (``None`` without a recipe), and each form's."""

    name: str
    recipe: str | None
    cells: tuple[Cell, ...]

    @property
    def agrees(self) -> bool:
        """Whether no form has another value that the recipe does not declare."""
        return all(cell.status != "differ" for cell in self.cells)


def compare_pins(recipe: Recipe | None, inventories: Sequence[Inventory]) -> tuple[Pin, ...]:
    """Each pin of ``recipe`` in each form.

    Args:
        recipe: whose pins; without one the usual pins are compared with the first form that has them.
        inventories: the forms.
    """
    wanted = _wanted(recipe)
    rows = []
    for name, pinned in wanted.items():
        value = pinned
        facts = [_facts(name, inventory) for inventory in inventories]
        if recipe is None:
            first = next((found[0] for found in facts if found), None)
            if first is None:
                continue
            value = _shown(name, first)
        cells = tuple(
            _cell(name, value, found, recipe, inventory)
            for found, inventory in zip(facts, inventories, strict=True)
        )
        rows.append(Pin(name=name, recipe=value if recipe else None, cells=cells))
    return tuple(rows)


def _wanted(recipe: Recipe | None) -> dict[str, str | None]:
    """The pins by name, in the order of the table, with the recipe's value."""
    if recipe is None:
        return dict.fromkeys(_FIXED)
    found: dict[str, str | None] = {
        "python": recipe.python.version,
        "torch": recipe.torch.version,
        "torchvision": recipe.torch.torchvision,
        "cuda": recipe.cuda.version,
        "cudnn": recipe.cuda.cudnn,
        "nccl": recipe.cuda.nccl,
    }
    if recipe.deepspeed is not None:
        found["deepspeed"] = recipe.deepspeed.version
        found["operators"] = " ".join(recipe.deepspeed.operators)
        found["architectures"] = " ".join(recipe.deepspeed.architectures)
    found = {name: value for name, value in found.items() if value is not None}
    for text in recipe.python_packages:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(
            {"python_version": recipe.python.version}
        ):
            found[canonicalize_name(requirement.name)] = str(requirement.specifier) or "any version"
    return found


def _facts(pin: str, inventory: Inventory) -> tuple[Fact, ...]:
    """All that a form says of a pin: what it states, and the packages whose version it is."""
    stated = inventory.facts.get(pin, ())
    if pin in _COMPILED:
        return stated
    if pin == "python":
        return stated or _versions(inventory, (("conda", "python"), ("debian", "python3.11")))
    if pin == "cuda":
        runtime = _versions(
            inventory, (("python", _RUNTIME[0]), ("python", _RUNTIME[1]), ("conda", "cuda-version"))
        )
        return (*stated, *runtime, *_built_for(inventory))
    known = [(p.ecosystem, p.name) for p in inventory.packages if common_name(p) == pin]
    found = (*stated, *_versions(inventory, known))
    # A pip of conda's serves the interpreter that a virtual environment is made from: Python's own packages come first.
    return tuple(fact for fact in found if fact.ecosystem == "python") or found


def _versions(inventory: Inventory, keys: Iterable[tuple[Ecosystem, str]]) -> tuple[Fact, ...]:
    packages = [package for key in keys if (package := inventory.package(*key)) is not None]
    return tuple(
        Fact(value=p.version, source=f"{p.name} {p.version}", ecosystem=p.ecosystem) for p in packages
    )


def _built_for(inventory: Inventory) -> Iterator[Fact]:
    """The CUDA that torch was built for: conda's build string says it, and a local version of a wheel."""
    for package in inventory.packages:
        if package.ecosystem == "conda" and package.name == "pytorch":
            text, match = package.build or "", _CONDA_CUDA.match(package.build or "")
        elif package.ecosystem == "python" and package.name == "torch" and "+" in package.version:
            text, match = package.version, _WHEEL_CUDA.search(package.version)
        else:
            continue
        value = f"{match[1]}.{match[2]}" if match else "none"
        if match or "cpu" in text:
            yield Fact(value=value, source=f"{package.name} {text}", ecosystem=package.ecosystem)


def _cell(
    pin: str, wanted: str | None, facts: Sequence[Fact], recipe: Recipe | None, inventory: Inventory
) -> Cell:
    values = tuple(dict.fromkeys(_shown(pin, fact) for fact in facts))
    sources = tuple(fact.source for fact in facts)
    if wanted is None:
        return Cell(values=values, sources=sources, status="unknown")
    if not facts:
        return _absent(pin, wanted, recipe, inventory)
    wrong = [fact for fact in facts if not _holds(pin, wanted, fact)]
    if not wrong:
        return Cell(values=values, sources=sources, status="agree")
    declared = recipe.conda.versions.get(pin) if recipe else None
    if declared is not None and all(f.ecosystem == "conda" and _holds(pin, declared, f) for f in wrong):
        why = f'[conda.versions] says {pin} = "{declared}"'
        return Cell(values=values, sources=sources, status="declared", why=why)
    told = ", ".join(f"{_shown(pin, fact)} ({fact.source})" for fact in wrong)
    if declared is not None and inventory.form in ("conda lock", "conda environment"):
        wanted = f"{wanted}, or {declared} as [conda.versions] says,"
    return Cell(values=values, sources=sources, status="differ", why=f"{wanted} is pinned, here is {told}")


def _absent(pin: str, wanted: str, recipe: Recipe | None, inventory: Inventory) -> Cell:
    """A form that says nothing of a pin."""
    conda = inventory.form in ("conda lock", "conda environment")
    if pin in _COMPILED and inventory.form in ("conda lock", "conda environment", "Python environment"):
        why = "an environment compiles DeepSpeed's operators when they are first used, for the GPU that is there"
        return Cell(values=(), sources=(), status="not compiled", why=why)
    if conda and recipe is not None and pin in recipe.conda.without:
        return Cell(values=(), sources=(), status="declared", why=f"[conda] without names {pin}")
    if conda and recipe is not None and not recipe.makes_environment and pin != "python":
        why = "the recipe makes no environment: its conda lock holds the interpreter alone"
        return Cell(values=(), sources=(), status="unknown", why=why)
    return Cell(values=(), sources=(), status="differ", why=f"{wanted} is pinned, and it is not here")


def _shown(pin: str, fact: Fact) -> str:
    """A value as far as the pin goes: CUDA's and Python's minor version of a package's whole one."""
    if pin == "cuda":
        return ".".join(fact.value.split(".")[:2])
    return " ".join(sorted(fact.value.split(), key=_number)) if pin == "architectures" else fact.value


def _number(word: str) -> tuple[int, ...]:
    return tuple(int(part) for part in word.removesuffix("+PTX").split(".") if part.isdigit())


def _holds(pin: str, wanted: str, fact: Fact) -> bool:
    """Whether a form's value is what is pinned."""
    rules: dict[str, Callable[[], bool]] = {
        "python": lambda: _minor(fact.value) == _minor(wanted),
        "cuda": lambda: _minor(fact.value) == _minor(wanted),
        "operators": lambda: set(wanted.split()) <= set(fact.value.split()),
        "architectures": lambda: set(wanted.split()) == set(fact.value.split()),
    }
    if pin in rules:
        return rules[pin]()
    if wanted == "any version":
        return True
    if wanted[0] in "=<>!~":
        try:
            return SpecifierSet(wanted).contains(Version(Version(fact.value).public), prereleases=True)
        except InvalidVersion:
            return False
    return same_version(pin, wanted, fact.value, ecosystems=(None, fact.ecosystem))


def _minor(version: str) -> list[str]:
    return version.rpartition(":")[2].split("-")[0].split(".")[:2]
