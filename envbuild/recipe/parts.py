"""Optional parts of a recipe: which packages each of them brings (``parts.toml``)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

from envbuild.recipe.suggest import did_you_mean, listed
from envbuild.recipe.table import Table

DEVEL = "devel"
"""The part with the CUDA compiler and headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part by name, with the Debian packages (names), Python packages (PEP 508) and conda packages it brings.

    ``conda`` (MatchSpecs) stands in an environment for what ``debian`` and ``python`` bring to an image.
    """

    name: str
    debian: tuple[str, ...]
    python: tuple[str, ...]
    conda: tuple[str, ...]


def known_parts() -> dict[str, Part]:
    """Every part that there is, by name."""
    text = resources.files(__package__).joinpath("parts.toml").read_text(encoding="utf-8")
    return {
        name: Part(
            name=name,
            debian=tuple(table["debian"]),
            python=tuple(table["python"]),
            conda=tuple(table["conda"]),
        )
        for name, table in tomllib.loads(text).items()
    }


def parts_of(table: Table) -> tuple[Part, ...]:
    """The parts that a recipe's own ``parts`` names.

    Raises:
        EnvbuildError: exit 3, one that does not exist (the nearest is offered), or one twice.
    """
    known = known_parts()
    found: list[Part] = []
    for position, word in enumerate(table.texts("parts", default=())):
        key = f"parts[{position}]"
        if word not in known:
            raise table.wrong(
                key,
                f'there is no part "{word}"',
                f"{did_you_mean(word, known)}The parts are {listed(known)}.",
            )
        if known[word] in found:
            raise table.wrong(key, f'"{word}" is listed twice', "Keep one of the two.")
        found.append(known[word])
    return tuple(found)


def united(*lists: tuple[Part, ...]) -> tuple[Part, ...]:
    """Each part once, in the order of ``parts.toml``, so that spelling and inheritance do not matter."""
    names = {part.name for parts in lists for part in parts}
    return tuple(part for name, part in known_parts().items() if name in names)
