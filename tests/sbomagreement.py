"""Whether an SBOM and what an image says of itself name the same packages in the same versions, both ways."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

DPKG = ("dpkg-query", "-W", "-f", "${binary:Package} ${Version} ${Architecture} ${db:Status-Abbrev}\\n")
"""What Debian's packages are asked with."""


def debian_of(said: str) -> set[tuple[str, str, str]]:
    """Name, version and architecture of each package that dpkg-query calls installed."""
    rows = [line.split() for line in said.splitlines()]
    assert all(row[3] == "ii" for row in rows), said
    return {(name.partition(":")[0], version, architecture) for name, version, architecture, _ in rows}


def python_of(said: str) -> set[tuple[str, str]]:
    """Canonical name and version of each distribution that ``pip list --format json`` names."""
    return {
        (row["name"].lower().replace("_", "-").replace(".", "-"), row["version"]) for row in json.loads(said)
    }


def compare(bill: bytes, *, debian: set[tuple[str, str, str]], python: set[tuple[str, str]]) -> None:
    """Fails with the packages that only one side has."""
    installed = [component for component in json.loads(bill)["components"] if is_installed(component)]
    told_debian, told_python = set(), set()
    for component in installed:
        place, _, qualifiers = component["purl"].removeprefix("pkg:").partition("?")
        kind, name, version = place.split("/")[0], *place.split("/")[-1].rsplit("@", 1)
        assert (unquote(name), unquote(version)) == (component["name"], component["version"])
        if kind == "deb":
            values = dict(pair.split("=") for pair in qualifiers.split("&"))
            told_debian.add((component["name"], component["version"], values["arch"]))
        else:
            told_python.add((component["name"], component["version"]))
    for told, seen in ((told_debian, debian), (told_python, python)):
        assert told == seen, f"only told: {sorted(told - seen)}; only installed: {sorted(seen - told)}"
    assert len(installed) == len(debian) + len(python)


def is_installed(component: dict[str, Any]) -> bool:
    """Whether a component is a whole package in the image: no build input, and not some files of a package."""
    names = {item["name"] for item in component.get("properties", [])}
    return component.get("scope") != "excluded" and "envbuild:contents" not in names
