"""One table of a recipe, read key by key: types checked, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe.suggest import did_you_mean, listed

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    str: "a text",
    list: "a list",
    dict: "a table",
    float: "a number",
}

_LONGEST = 1000
_MOST = 1 << 16


def _shown(value: object) -> str:
    """A value as an error shows it: never very long."""
    try:
        text = str(value)
    except ValueError:  # a number of very many digits
        return "a very long number"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


@dataclass(slots=True, kw_only=True)
class Table:
    """A table's values with what an error has to say: the file, the table's name and where each key stands."""

    path: Path
    name: str
    values: Mapping[str, object]
    places: Mapping[str, str]
    known: list[str] = field(default_factory=list)

    def text(self, key: str, *, default: str | None = None) -> str:
        """A string. Without a default the key must be there."""
        value = self._value(key, default)
        if not isinstance(value, str):
            spelt = (
                f'Write {key} = "{_shown(value)}", in quotes.'
                if isinstance(value, int | float)
                else f'Write {key} = "…".'
            )
            raise self._type(key, value, "a text", spelt)
        return self._short(key, value)

    def optional_text(self, key: str) -> str | None:
        """A string, or ``None`` where the key is not there."""
        self.known.append(key)
        return self.text(key) if key in self.values else None

    def texts(self, key: str, *, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of strings."""
        value = self._value(key, default)
        if isinstance(value, tuple):
            return cast(tuple[str, ...], value)
        if not isinstance(value, list):
            raise self._type(key, value, "a list of texts", f'Write {key} = ["…"].')
        for position, item in enumerate(value):
            if not isinstance(item, str):
                raise self._type(f"{key}[{position}]", item, "a text", f'Write "{_shown(item)}", in quotes.')
            self._short(f"{key}[{position}]", item)
        return tuple(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._type(
                key, value, "true or false", f"Write {key} = true or {key} = false, without quotes."
            )
        return value

    def count(self, key: str, *, default: int) -> int:
        """A whole number of at least 1."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._type(key, value, "a whole number", f"Write {key} = {default}, without quotes.")
        if value < 1:
            raise self.wrong(key, f"is {_shown(value)}, but must be at least 1", f"Write {key} = 1 or more.")
        if value > _MOST:
            raise self.wrong(
                key, f"is {_shown(value)}, but must be at most {_MOST}", f"Write {key} = {default}."
            )
        return value

    def table(self, key: str, *, required: bool) -> Table | None:
        """A table inside, ``None`` where it is not there and need not be."""
        self.known.append(key)
        if key not in self.values:
            if required:
                raise self._missing(key, f"Add a table [{key}].")
            return None
        value = self.values[key]
        if not isinstance(value, dict):
            raise self._type(key, value, "a table", f"Write [{key}] on a line of its own.")
        return Table(path=self.path, name=self.dotted(key), values=value, places=self.places)

    def part(self, key: str) -> Table:
        """A table inside that need not be there; an empty one where it is not."""
        found = self.table(key, required=False)
        return found or Table(path=self.path, name=self.dotted(key), values={}, places=self.places)

    def finish(self) -> None:
        """Refuse keys that nobody asked for."""
        for key in self.values:
            if key not in self.known:
                raise self.wrong(
                    key, "is not a key of a recipe", f"{did_you_mean(key, self.known)}Keys here: {listed(self.known)}.",
                    id="recipe-unknown-key",
                )  # fmt: skip

    def dotted(self, key: str) -> str:
        """The key's full name."""
        return f"{self.name}.{key}" if self.name else key

    def where(self, key: str) -> str:
        """``file:line`` of the key, or of the nearest thing around it that has a line."""
        dotted = self.dotted(key)
        while dotted and dotted not in self.places:
            cut = max(dotted.rfind("."), dotted.rfind("["))
            dotted = dotted[: max(cut, 0)]
        return self.places[dotted] if dotted else str(self.path)

    def wrong(self, key: str, what: str, hint: str, *, id: str = "recipe-wrong-value") -> EnvbuildError:
        """The error about one key; ``what`` goes on after the key's name."""
        message = f"{self.dotted(key)}: {what}"
        return EnvbuildError(id, message, hint=hint, exit=Exit.INPUT, where=self.where(key))

    def _short(self, key: str, text: str) -> str:
        """No version and no name is so long, and none has such a character."""
        if len(text) > _LONGEST or "\0" in text:
            what = (
                "holds a NUL"
                if "\0" in text
                else f"has {len(text)} characters, and at most {_LONGEST} are read"
            )
            raise self.wrong(key, what, "Write a shorter, plain text.")
        return text

    def _value(self, key: str, default: object) -> object:
        self.known.append(key)
        if key in self.values:
            return self.values[key]
        if default is None:
            raise self._missing(
                key, f"Add {key} = … to [{self.name}]." if self.name else f"Add {key} = … at the top."
            )
        return default

    def _missing(self, key: str, hint: str) -> EnvbuildError:
        typed = next(
            (word for word in self.values if word not in self.known and did_you_mean(word, [key])), None
        )
        if typed is None:
            return self.wrong(key, f'"{key}" is missing', hint, id="recipe-missing-key")
        what = f'is not a key of a recipe, and "{key}" is missing'
        return self.wrong(typed, what, f'Did you mean "{key}"?', id="recipe-missing-key")

    def _type(self, key: str, value: object, wanted: str, hint: str) -> EnvbuildError:
        seen = _NAMES.get(type(value), type(value).__name__)
        return self.wrong(
            key, f"must be {wanted}, not {seen} ({_shown(value)})", hint, id="recipe-wrong-type"
        )
