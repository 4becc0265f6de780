"""Debian control data (deb822(5)) and relations between packages (Debian policy 7.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from envbuild.lock.debian.version import DebianVersion
from envbuild.oci.digest import is_sha256

_RELATION = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]*)(?::(?P<arch>[a-z0-9-]+))?"
    r" ?(?:\( ?(?P<operator><<|<=|=|>=|>>|<|>) ?(?P<version>[^\s)]+) ?\))? ?(?:\[[^]]*\])?"
)
_FORMS = {
    "package": re.compile(r"[a-z0-9][a-z0-9+.-]*"),
    "version": re.compile(r"[A-Za-z0-9.+~:-]+"),
    "filename": re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._+~!%:-]+(/[A-Za-z0-9._+~!%:-]+)*"),
    "size": re.compile(r"[0-9]{1,18}"),
}
"""What must be in a paragraph, and how (Debian Policy, 5.6.1 and 5.6.12)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One alternative of a dependency: a name, and the version it wants."""

    name: str
    operator: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name

    def met_by(self, version: str | None) -> bool:
        """Whether a package (or an unversioned provision: ``None``) of this version will do."""
        if self.operator is None or self.version is None:
            return True
        return version is not None and DebianVersion(version).satisfies(
            self.operator, DebianVersion(self.version)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DebPackage:
    """One paragraph of a Packages index. ``suite`` and ``component`` say which index; ``size`` is in bytes."""

    name: str
    version: str
    architecture: str
    essential: bool
    priority: str
    depends: str
    provides: str
    conflicts: str
    filename: str
    size: int
    sha256: str
    suite: str
    component: str


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a control file: field names in lower case, continuation lines joined by line feeds."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.split("\n"):
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            fields[name] = fields.get(name, "") + "\n" + line.strip()
        elif line[0] != "#":
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip()
    if fields:
        yield fields


def packages(text: str, *, suite: str, component: str) -> Iterator[DebPackage]:
    """The installable packages of a Packages index (amd64 and all) that have a sha256.

    Raises:
        ValueError: a package without a name, a version, a plain path or a size.
    """
    for fields in paragraphs(text):
        depends = ", ".join(fields[key] for key in ("pre-depends", "depends") if fields.get(key))
        conflicts = ", ".join(fields[key] for key in ("conflicts", "breaks") if fields.get(key))
        if fields.get("architecture") not in ("amd64", "all") or not is_sha256(fields.get("sha256")):
            continue
        _check(fields)
        yield DebPackage(
            name=fields["package"], version=fields["version"], architecture=fields["architecture"],
            essential=fields.get("essential") == "yes", priority=fields.get("priority", "optional"),
            depends=depends, provides=fields.get("provides", ""), conflicts=conflicts, filename=fields["filename"],
            size=int(fields["size"]), sha256=fields["sha256"], suite=suite, component=component,
        )  # fmt: skip


def _check(fields: dict[str, str]) -> None:
    for key, pattern in _FORMS.items():
        text = fields.get(key)
        if text is None or not pattern.fullmatch(text):
            shown = "nothing" if text is None else repr(text[:80])
            raise ValueError(
                f"says {shown} where the {key} of {fields.get('package', 'a package')[:80]} belongs"
            )


def dependencies(field: str) -> list[list[Relation]]:
    """A dependency field: all of these, each by one of its alternatives."""
    found = []
    for clause in field.replace("\n", " ").split(","):
        if clause.strip():
            found.append([relation for part in clause.split("|") if (relation := _relation(part))])
    return found


def relations(field: str) -> Iterable[Relation]:
    """A field without alternatives (Provides, Conflicts, Breaks)."""
    return [item for clause in dependencies(field) for item in clause]


def _relation(text: str) -> Relation | None:
    match = _RELATION.fullmatch(" ".join(text.split()))
    if match is None or match["arch"] not in (None, "any", "amd64", "native"):
        return None
    return Relation(name=match["name"], operator=match["operator"], version=match["version"])
