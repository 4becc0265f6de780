"""A recipe's file as TOML, with what it extends merged in, and where each key stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import read_regular
from envbuild.oci.document import bounded
from envbuild.recipe.keylines import check_keys, key_lines
from envbuild.recipe.model import Ref
from envbuild.recipe.parts import Part, parts_of, united
from envbuild.recipe.suggest import did_you_mean, listed
from envbuild.recipe.table import Table

FILE = "recipe.toml"
_LIMIT = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Merged tables. ``places`` maps a dotted key to ``file:line``; ``parent`` is what the recipe itself extends."""

    values: Mapping[str, object]
    places: Mapping[str, str]
    parts: tuple[Part, ...]
    parent: Ref | None


def read_document(path: Path, ref: Ref, folders: Sequence[Path]) -> Document:
    """Read one recipe's file and those that it extends, nearest first.

    Args:
        path: the file.
        ref: the recipe that it is of.
        folders: where recipes are looked for.

    Raises:
        EnvbuildError: exit 3, with ``file:line``: not TOML, an unknown part, nothing there to extend, a circle.
    """
    return _read(path, ref, folders, (ref,))


def _read(path: Path, ref: Ref, folders: Sequence[Path], chain: tuple[Ref, ...]) -> Document:
    text = _text(path)
    try:
        check_keys(text)
        with bounded():
            values = tomllib.loads(text)
            lines = key_lines(text)
    except ValueError as error:  # TOMLDecodeError, and what int() refuses
        raise _syntax(path, text, str(error)) from None
    places = {key: f"{path}:{line}" for key, line in lines.items()}
    top = Table(path=path, name="", values=values, places=places)
    parts = united(parts_of(top))
    extended = top.optional_text("extends")
    own = {key: value for key, value in values.items() if key not in {"parts", "extends"}}
    if extended is None:
        return Document(values=own, places=places, parts=parts, parent=None)
    parent = _parent(top, extended, ref, folders)
    if parent in chain:
        circle = " extends ".join(item.tag for item in (*chain[chain.index(parent) :], parent))
        raise top.wrong("extends", f"goes round in a circle: {circle}", "Let one of them stand by itself.")
    found = next(file for folder in folders if (file := _file(folder, parent)).is_file())
    base = _read(found, parent, folders, (*chain, parent))
    return Document(
        values=_merged(base.values, own),
        places=_merged_places(base, own, places),
        parts=united(base.parts, parts),
        parent=parent,
    )


def _file(folder: Path, ref: Ref) -> Path:
    return folder / ref.name / ref.tag / FILE


def _parent(top: Table, extended: str, ref: Ref, folders: Sequence[Path]) -> Ref:
    """The recipe that ``extends`` names: another tag of the same name."""
    name, colon, tag = extended.rpartition(":")
    tags = sorted(file.parent.name for folder in folders for file in (folder / ref.name).glob(f"*/{FILE}"))
    others = [item for item in dict.fromkeys(tags) if item != ref.tag]
    there = f"The other tags of {ref.name}: {listed(others)}." if others else f"{ref.name} has no other tag."
    if colon:
        cure = f'Write extends = "{tag}".' if name == ref.name else there
        what = f'"{extended}" is not a tag: a recipe extends another tag of its own name, {ref.name}'
        raise top.wrong("extends", what, cure)
    if extended != ref.tag and extended not in others:
        what = f"there is no recipe {ref.name}:{extended} to extend"
        raise top.wrong("extends", what, f"{did_you_mean(extended, others)}{there}")
    return Ref(name=ref.name, tag=extended)


def _merged(base: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """Tables are merged key by key; any other value of the recipe's own stands instead of the extended one."""
    merged = dict(base)
    for key, value in own.items():
        before = merged.get(key)
        merged[key] = {**before, **value} if isinstance(value, dict) and isinstance(before, dict) else value
    return merged


def _merged_places(base: Document, own: Mapping[str, object], places: Mapping[str, str]) -> dict[str, str]:
    """Places of both; of a list that is overridden, no element of the extended one is left."""
    replaced = {key for key, value in own.items() if not isinstance(value, dict)}
    replaced |= {
        f"{key}.{name}" for key, value in own.items() if isinstance(value, dict) for name in value
    } | {"parts"}
    kept = {key: place for key, place in base.places.items() if key.partition("[")[0] not in replaced}
    return {**kept, **places}


def _text(path: Path) -> str:
    try:
        data = read_regular(path, _LIMIT)
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
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
