"""From ``recipe.toml`` to a checked :class:`Recipe`, or to one error that names the file, the line and the cure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from packaging.version import Version

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe import values
from envbuild.recipe.conda import conda_pins, makes
from envbuild.recipe.document import FILE, read_document
from envbuild.recipe.model import (
    IMAGE,
    CudaPins,
    DebianPins,
    DeepSpeedPins,
    GatePins,
    PythonPins,
    Recipe,
    Ref,
    TorchPins,
)
from envbuild.recipe.parts import DEVEL
from envbuild.recipe.suggest import did_you_mean, listed, nearest
from envbuild.recipe.table import Table

# The OCI distribution spec's grammar of names (one component) and tags.
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_CANDIDATE = "-candidate"


def parse_ref(text: str) -> Ref:
    """``name:tag`` (OCI distribution spec, "Pulling manifests") as a :class:`Ref`.

    Raises:
        EnvbuildError: exit 2 where the text is no reference to a recipe.
    """
    name, colon, tag = text.partition(":")
    reason = None
    if not colon:
        reason, hint = "has no tag", f"Write {name or 'NAME'}:TAG; `envbuild list` shows what there is."
    elif not _NAME.fullmatch(name):
        reason, hint = f'has a wrong name "{name}"', "Lower-case letters and digits, with . _ - between them."
    elif not _TAG.fullmatch(tag):
        reason, hint = (
            f'has a wrong tag "{tag}"',
            "Letters, digits and . _ -, at most 128, not starting with . or -.",
        )
    elif tag.endswith(_CANDIDATE):
        reason, hint = "names a candidate, not a recipe", f"Write {name}:{tag.removesuffix(_CANDIDATE)}."
    if reason:
        raise EnvbuildError("wrong-reference", f'"{text}" {reason}', hint=hint, exit=Exit.USAGE)
    return Ref(name=name, tag=tag)


def is_ref(ref: Ref) -> bool:
    """Whether a reference that was read from somewhere is one that :func:`parse_ref` gives."""
    return bool(_NAME.fullmatch(ref.name) and _TAG.fullmatch(ref.tag)) and not ref.tag.endswith(_CANDIDATE)


def find_ref(text: str, folders: Sequence[Path]) -> Ref:
    """``name:tag``, or ``name`` alone where there is exactly one tag of it.

    Raises:
        EnvbuildError: exit 2, no reference, or a name with several tags (they are listed); exit 3, an unknown name.
    """
    if ":" in text or not _NAME.fullmatch(text):
        return parse_ref(text)
    known = _references(folders)
    tags = [ref for ref in known if ref.name == text]
    if len(tags) == 1:
        return tags[0]
    if tags:
        raise EnvbuildError(
            "wrong-reference", f'"{text}" has no tag, and there are {len(tags)} recipes of that name',
            hint=f"Write one of {', '.join(str(ref) for ref in tags)}.", exit=Exit.USAGE,
        )  # fmt: skip
    names = list(dict.fromkeys(ref.name for ref in known))
    offer = f"{did_you_mean(text, names)}The names are {listed(names)}. " if names else ""
    raise EnvbuildError(
        "no-recipe", f"there is no recipe {text} (searched: {_searched(folders)})",
        hint=f"{offer}`envbuild list` shows what there is; `--recipes DIR` adds a folder.", exit=Exit.INPUT,
    )  # fmt: skip


def list_recipes(folders: Sequence[Path]) -> list[Recipe]:
    """All recipes in the folders, in natural order (``v2.9`` before ``v2.10``); of two with one name the first.

    Raises:
        EnvbuildError: exit 3, one of them is wrong.
    """
    return [load_recipe(ref, folders) for ref in _references(folders)]


def load_recipe(ref: Ref, folders: Sequence[Path]) -> Recipe:
    """Read the recipe ``ref`` from the first folder that has it.

    Raises:
        EnvbuildError: exit 3: there is none (the nearest name is offered), or something in it is wrong.
    """
    for folder in folders:
        path = folder / ref.name / ref.tag / FILE
        if path.is_file():
            return read_recipe(path, ref, folders)
    known = [str(item) for item in _references(folders)]
    near = nearest(str(ref), known)
    offer = f"Did you mean {near[0]}? " if near else f"There are: {', '.join(known)}. " if known else ""
    raise EnvbuildError(
        "no-recipe", f"there is no recipe {ref} (searched: {_searched(folders)})",
        hint=f"{offer}`envbuild list` shows what there is; `--recipes DIR` adds a folder.", exit=Exit.INPUT,
    )  # fmt: skip


def read_recipe(path: Path, ref: Ref, folders: Sequence[Path]) -> Recipe:
    """Read one recipe file, and what it extends from ``folders``.

    Raises:
        EnvbuildError: exit 3, with ``file:line`` and the key.
    """
    document = read_document(path, ref, folders)
    places = document.places
    root = Table(path=path, name="", values=document.values, places=places)
    root.known += ["parts", "extends"]
    description = values.description(root)
    made = makes(root)
    python, torch, cuda = (root.table(key, required=True) for key in ("python", "torch", "cuda"))
    deepspeed = root.table("deepspeed", required=False)
    debian, conda, gate = (root.part(key) for key in ("debian", "conda", "gate"))
    root.finish()
    assert python is not None
    assert torch is not None
    assert cuda is not None
    if deepspeed is None and any(part.name == DEVEL for part in document.parts):
        what = 'the part "devel" is the compiler of DeepSpeed\'s operators, and there is no table [deepspeed]'
        raise root.wrong("parts", what, 'Add [deepspeed], or remove "devel".')
    debian_pins = _debian(debian)
    python_pins = _python(python, debian_pins.release if IMAGE in made else None)
    torch_pins = _torch(torch)
    cuda_pins = _cuda(cuda)
    recipe = Recipe(
        ref=ref, path=path, places=places, parent=document.parent, makes=made,
        description=description, parts=document.parts, python=python_pins, torch=torch_pins, cuda=cuda_pins,
        deepspeed=None if deepspeed is None else _deepspeed(deepspeed, cuda_pins, torch_pins, IMAGE in made),
        debian=debian_pins, conda=conda_pins(conda, python_pins.packages, torch_pins.torchvision),
        gate=GatePins(gpus=gate.count("gpus", default=1)),
    )  # fmt: skip
    gate.finish()
    return recipe


def _searched(folders: Sequence[Path]) -> str:
    return ", ".join(str(folder) for folder in folders) or "no folder"


def _references(folders: Sequence[Path]) -> list[Ref]:
    found = set()
    for folder in folders:
        for path in folder.glob(f"*/*/{FILE}"):
            name, tag = path.parent.parent.name, path.parent.name
            if _NAME.fullmatch(name) and _TAG.fullmatch(tag):
                found.add(Ref(name=name, tag=tag))
    return sorted(found, key=lambda ref: _natural(str(ref)))


def _python(table: Table, release: str | None) -> PythonPins:
    pins = PythonPins(version=values.python_version(table, release), packages=values.python_packages(table))
    table.finish()
    return pins


def _torch(table: Table) -> TorchPins:
    version = values.exact_version(table, "version", table.text("version"))
    vision = table.optional_text("torchvision")
    if vision is not None:
        vision = values.exact_version(table, "torchvision", vision)
    table.finish()
    return TorchPins(version=version, torchvision=vision)


def _cuda(table: Table) -> CudaPins:
    pins = CudaPins(
        version=values.cuda_version(table),
        cudnn=values.exact_version(table, "cudnn", table.text("cudnn")),
        nccl=values.exact_version(table, "nccl", table.text("nccl")),
    )
    table.finish()
    return pins


def _deepspeed(table: Table, cuda: CudaPins, torch: TorchPins, compiled: bool) -> DeepSpeedPins:
    """``compiled``: operators are compiled into an image, for architectures that must then be there."""
    version = values.exact_version(table, "version", table.text("version"))
    if Version(torch.version) >= Version("2.12") and Version(version) < Version("0.19.5"):
        raise table.wrong(
            "version", f"DeepSpeed {version} does not compile with torch {torch.version}: from 2.12 it needs C++20",
            "Write 0.19.5 or newer.",
        )  # fmt: skip
    pins = DeepSpeedPins(
        version=version,
        operators=values.operators(table, default=values.COMPILED_OPERATORS if compiled else ()),
        architectures=values.architectures(table, cuda.major, required=compiled),
    )
    table.finish()
    return pins


def _debian(table: Table) -> DebianPins:
    pins = DebianPins(
        release=values.release(table),
        packages=values.debian_packages(table),
        security_updates=table.flag("security-updates", default=False),
    )
    table.finish()
    return pins


def _natural(text: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", text)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
