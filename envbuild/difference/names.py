"""Which packages of different ecosystems are the same thing, and when their versions are the same (``names.toml``)."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from envbuild.difference.inventory import ECOSYSTEMS, Ecosystem, Package

_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """``names.toml``: common names by ecosystem and name, and how many numbers of a version count."""

    common: Mapping[tuple[str, str], str]
    digits: Mapping[str, int]


@functools.cache
def names() -> Names:
    """The table, read once."""
    text = resources.files(__package__).joinpath("names.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)["same"]
    common: dict[tuple[str, str], str] = {
        (ecosystem, name): entry["name"]
        for entry in entries
        for ecosystem in ECOSYSTEMS
        for name in entry.get(ecosystem, ())
    }
    digits = {entry["name"]: entry["digits"] for entry in entries if "digits" in entry}
    return Names(common=common, digits=digits)


def common_name(package: Package) -> str:
    """What a package is called in a table: one name for the same thing in several ecosystems.

    Debian's packages are the same thing as others only where the table says so: ``openssl`` there is a program of the
    base, not what an environment links with.
    """
    known = names().common.get((package.ecosystem, package.name))
    if known is not None:
        return known
    if package.ecosystem == "debian":
        return f"{package.name} (Debian)"
    return canonicalize_name(package.name)


def same_version(
    name: str, left: str, right: str, *, ecosystems: tuple[Ecosystem | None, Ecosystem | None]
) -> bool:
    """Whether two versions of the thing with the common name ``name`` are the same release.

    Within one ecosystem: equal as that ecosystem compares them (PEP 440 without the local part, which some indexes add;
    otherwise as text). Across two: by as many numbers as ``names.toml`` says, else as PEP 440 has it, or
    by all leading numbers where one is no version of Python's.
    """
    if left == right:
        return True
    if ecosystems[0] == ecosystems[1] and ecosystems[0] in ("conda", "debian"):
        return False
    count = names().digits.get(name)
    if count is not None and ecosystems[0] != ecosystems[1]:
        return _release(left)[:count] == _release(right)[:count] != ()
    try:
        return Version(Version(left).public) == Version(Version(right).public)
    except InvalidVersion:
        return ecosystems[0] != ecosystems[1] and _release(left) == _release(right) != ()


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version of any ecosystem; Debian's epoch does not count."""
    match = _NUMBERS.match(version.rpartition(":")[2])
    return tuple(int(part) for part in match.group().split(".")) if match else ()
