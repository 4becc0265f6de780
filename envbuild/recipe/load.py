"""From ``recipe.toml`` to a checked :class:`Recipe`, or to one error that names the file, the line and the cure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.version import Version

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe import values
from envbuild.recipe.keylines import key_lines
from envbuild.recipe.model import (
    CudaPins,
    DebianPins,
    DeepSpeedPins,
    GatePins,
    PythonPins,
    Recipe,
    Ref,
    TorchPins,
)
from envbuild.recipe.suggest import nearest
from envbuild.recipe.table import Table

FILE = "recipe.toml"

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
            return read_recipe(path, ref)
    known = [str(item) for item in _references(folders)]
    near = nearest(str(ref), known)
    offer = f"Did you mean {near[0]}? " if near else f"There are: {', '.join(known)}. " if known else ""
    searched = ", ".join(str(folder) for folder in folders) or "no folder"
    raise EnvbuildError(
        "no-recipe", f"there is no recipe {ref} (searched: {searched})",
        hint=f"{offer}`envbuild list` shows what there is; `--recipes DIR` adds a folder.", exit=Exit.INPUT,
    )  # fmt: skip


def read_recipe(path: Path, ref: Ref) -> Recipe:
    """Read one recipe file.

    Raises:
        EnvbuildError: exit 3, with ``file:line`` and the key.
    """
    text = _read(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(path, text, str(error)) from None
    lines = key_lines(text)
    root = Table(path=path, name="", values=document, lines=lines)
    description = values.description(root)
    python, torch, cuda = (root.table(key, required=True) for key in ("python", "torch", "cuda"))
    deepspeed, debian, gate = (root.table(key, required=False) for key in ("deepspeed", "debian", "gate"))
    root.finish()
    assert python is not None
    assert torch is not None
    assert cuda is not None
    debian = debian or Table(path=path, name="debian", values={}, lines=lines)
    gate = gate or Table(path=path, name="gate", values={}, lines=lines)
    debian_pins = _debian(debian)
    torch_pins = _torch(torch)
    cuda_pins = _cuda(cuda)
    recipe = Recipe(
        ref=ref, path=path, lines=lines, description=description,
        python=_python(python, debian_pins.release), torch=torch_pins, cuda=cuda_pins,
        deepspeed=None if deepspeed is None else _deepspeed(deepspeed, cuda_pins, torch_pins),
        debian=debian_pins, gate=GatePins(gpus=gate.count("gpus", default=1)),
    )  # fmt: skip
    gate.finish()
    return recipe


def _references(folders: Sequence[Path]) -> list[Ref]:
    found = set()
    for folder in folders:
        for path in folder.glob(f"*/*/{FILE}"):
            name, tag = path.parent.parent.name, path.parent.name
            if _NAME.fullmatch(name) and _TAG.fullmatch(tag):
                found.add(Ref(name=name, tag=tag))
    return sorted(found, key=lambda ref: _natural(str(ref)))


def _python(table: Table, release: str) -> PythonPins:
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


def _deepspeed(table: Table, cuda: CudaPins, torch: TorchPins) -> DeepSpeedPins:
    version = values.exact_version(table, "version", table.text("version"))
    if Version(torch.version) >= Version("2.12") and Version(version) < Version("0.19.5"):
        raise table.wrong(
            "version", f"DeepSpeed {version} does not compile with torch {torch.version}: from 2.12 it needs C++20",
            "Write 0.19.5 or newer.",
        )  # fmt: skip
    pins = DeepSpeedPins(
        version=version,
        operators=values.operators(table),
        architectures=values.architectures(table, cuda.major),
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


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise EnvbuildError(
            "recipe-not-utf-8", f"byte {error.start} of the recipe is not UTF-8 text",
            hint="Save the file as UTF-8.", exit=Exit.INPUT, where=f"{path}:{line}",
        ) from None  # fmt: skip
    except OSError as error:
        raise EnvbuildError(
            "recipe-unreadable", f"the recipe cannot be read: {error.strerror}",
            hint="Check the file's owner and mode.", exit=Exit.INPUT, where=str(path),
        ) from None  # fmt: skip


def _syntax(path: Path, text: str, message: str) -> EnvbuildError:
    match = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    line = int(match.group(1)) if match else text.count("\n") + 1
    reason = message[: match.start()] if match else message.removesuffix(" (at end of document)")
    return EnvbuildError(
        "recipe-syntax", f"the recipe is not valid TOML: {reason}",
        hint="Look at this line and the one before it: a text needs quotes, a list its closing bracket.",
        exit=Exit.INPUT, where=f"{path}:{line}",
    )  # fmt: skip


def _natural(text: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", text)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
