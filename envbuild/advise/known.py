"""The keys that DeepSpeed's configuration has: data made from DeepSpeed itself by ``ci/deepspeed_keys.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

VERSION = "0.19.8"
"""The DeepSpeed release whose keys are known; the data file's name has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a key may hold.

    ``types`` are names of JSON types, empty for any; ``auto`` says that DeepSpeed itself takes "auto" there;
    ``alias`` is the spelling of DeepSpeed's documentation; ``deprecated`` the key that replaces it.
    """

    types: tuple[str, ...]
    null: bool = False
    choices: tuple[object, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    auto: bool = False
    open: bool = False
    alias: str | None = None
    deprecated: str | None = None
    section: Section | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """An object of the configuration. ``strict``: DeepSpeed refuses unknown keys; otherwise it drops them silently."""

    strict: bool
    keys: Mapping[str, Key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Everything about one release: ``top`` is the configuration; parameters by optimizer and scheduler.

    ``removed`` maps the dotted path of a key that an older release had to what DeepSpeed says about it.
    """

    version: str
    top: Section
    optimizers: Mapping[str, tuple[str, ...] | None]
    schedulers: Mapping[str, tuple[str, ...]]
    removed: Mapping[str, str]


def known_keys() -> Known:
    """Read the data file of :data:`VERSION`."""
    raw: dict[str, Any] = json.loads(
        files("envbuild.advise").joinpath(f"deepspeed-{VERSION}.json").read_bytes()
    )
    return Known(
        version=raw["deepspeed"],
        top=_section(raw["keys"]),
        optimizers={k: None if v is None else tuple(v) for k, v in raw["optimizers"].items()},
        schedulers={k: tuple(v) for k, v in raw["schedulers"].items()},
        removed=raw["removed"],
    )


def _section(raw: Mapping[str, Any]) -> Section:
    return Section(strict=raw["strict"], keys={name: _key(key) for name, key in raw["keys"].items()})


def _key(raw: Mapping[str, Any]) -> Key:
    return Key(
        types=tuple(raw["types"]),
        null=raw.get("null", False),
        choices=tuple(raw.get("choices", ())),
        at_least=raw.get("min"),
        above=raw.get("above"),
        at_most=raw.get("max"),
        below=raw.get("below"),
        auto=raw.get("auto", False),
        open=raw.get("open", False),
        alias=raw.get("alias"),
        deprecated=raw.get("deprecated"),
        section=_section(raw["section"]) if "section" in raw else None,
    )
