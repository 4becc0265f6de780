"""The closure of Debian packages: Pre-Depends and Depends, versions, alternatives, Provides; no Recommends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.debian.control import DebPackage, Relation, dependencies, relations
from envbuild.lock.debian.version import DebianVersion
from envbuild.recipe.suggest import nearest

FIXED = (
    "base-passwd", "ca-certificates", "g++", "gcc", "libc6-dev", "libpython3.11-dev", "mawk", "passwd",
    "python3", "python3.11", "tini", "tzdata", "usr-is-merged",
)  # fmt: skip
"""What every image has besides Debian's essential packages. ``usr-is-merged`` keeps ``usrmerge`` and its Perl out."""

_PRIORITIES = {"required": 0, "important": 1, "standard": 2, "optional": 3, "extra": 4}


class Offer:
    """The packages that the indexes offer, the newest version of each name, with what they provide."""

    def __init__(self, packages: Iterable[DebPackage]) -> None:
        self.by_name: dict[str, DebPackage] = {}
        for package in packages:
            known = self.by_name.get(package.name)
            if known is None or DebianVersion(known.version) < DebianVersion(package.version):
                self.by_name[package.name] = package
        self._providers: dict[str, list[tuple[DebPackage, str | None]]] = {}
        for package in self.by_name.values():
            if package.provides:
                for item in relations(package.provides):
                    self._providers.setdefault(item.name, []).append((package, item.version))

    def candidates(self, relation: Relation) -> list[DebPackage]:
        """What meets the relation: the package itself first, then providers by priority and name."""
        found = []
        own = self.by_name.get(relation.name)
        if own is not None and relation.met_by(own.version):
            found.append(own)
        providers = [
            item for item, version in self._providers.get(relation.name, []) if relation.met_by(version)
        ]
        found.extend(sorted(providers, key=lambda item: (_PRIORITIES.get(item.priority, 3), item.name)))
        return found

    def essential(self) -> list[str]:
        """The names of the essential packages (policy 3.8)."""
        return sorted(name for name, package in self.by_name.items() if package.essential)


def closure(offer: Offer, names: Sequence[str], *, asked: Mapping[str, str]) -> list[DebPackage]:
    """The named packages, the essential ones and everything that they depend on, sorted by name.

    An alternative that is already chosen wins over an earlier one, so that the result does not hold two packages
    for one purpose; the rest is decided by the order in the field, then by priority and name.

    Args:
        offer: what there is.
        names: what to start from, besides the essential packages.
        asked: where each name of the recipe stands (``file:line``), for errors.

    Raises:
        EnvbuildError: exit 3: a package does not exist (the nearest name is offered), or a dependency cannot be met.
    """
    chosen: dict[str, DebPackage] = {}
    waiting: list[tuple[DebPackage, str]] = []
    for name in [*offer.essential(), *names]:
        found = offer.candidates(Relation(name=name))
        if not found:
            raise _unknown(name, offer, asked.get(name))
        if found[0].name not in chosen:
            chosen[found[0].name] = found[0]
            waiting.append((found[0], name))
    postponed: list[tuple[DebPackage, str, list[Relation]]] = []
    while waiting or postponed:
        while waiting:
            package, root = waiting.pop(0)
            for clause in dependencies(package.depends):
                if len(clause) != 1 or len(offer.candidates(clause[0])) != 1:
                    postponed.append((package, root, clause))
                else:
                    _add(offer.candidates(clause[0])[0], root, chosen, waiting)
        if postponed:  # choices come last, when what is needed anyway is known
            package, root, clause = postponed.pop(0)
            _add(_choice(offer, clause, chosen, package, root), root, chosen, waiting)
    _check_conflicts(chosen)
    return sorted(chosen.values(), key=lambda item: item.name)


def _add(
    package: DebPackage, root: str, chosen: dict[str, DebPackage], waiting: list[tuple[DebPackage, str]]
) -> None:
    if package.name not in chosen:
        chosen[package.name] = package
        waiting.append((package, root))


def _choice(
    offer: Offer, clause: list[Relation], chosen: Mapping[str, DebPackage], package: DebPackage, root: str
) -> DebPackage:
    found = [candidate for relation in clause for candidate in offer.candidates(relation)]
    if not found:
        wanted = " | ".join(str(relation) for relation in clause) or "what is no package for amd64"
        because = "" if root == package.name else f" (needed for {root})"
        raise EnvbuildError(
            "debian-unsolvable", f"{package.name} {package.version}{because} depends on {wanted}, which is not offered",
            hint="The mirror may be incomplete or half-way through an update: try again later, or another mirror "
            "(ENVBUILD_DEBIAN_MIRROR).", exit=Exit.INPUT,
        )  # fmt: skip
    return next((item for item in found if item.name in chosen), found[0])


def _check_conflicts(chosen: Mapping[str, DebPackage]) -> None:
    provided: dict[str, list[tuple[str, str | None]]] = {}
    for package in chosen.values():
        for item in relations(package.provides):
            provided.setdefault(item.name, []).append((package.name, item.version))
    for package in chosen.values():
        for relation in relations(package.conflicts):
            other = chosen.get(relation.name)
            hits = [other.name] if other is not None and relation.met_by(other.version) else []
            hits += [name for name, version in provided.get(relation.name, []) if relation.met_by(version)]
            for name in hits:
                if name != package.name:
                    raise EnvbuildError(
                        "debian-conflict", f"{package.name} {package.version} conflicts with {name}: both are needed",
                        hint="Remove one of the packages that bring them from [debian] packages.", exit=Exit.INPUT,
                    )  # fmt: skip


def _unknown(name: str, offer: Offer, where: str | None) -> EnvbuildError:
    near = nearest(name, (item for item in offer.by_name if item[:1] == name[:1] or name in item), limit=3)
    hint = f"Nearest: {', '.join(near)}." if near else "Look for it with `apt-cache search`."
    return EnvbuildError(
        "no-such-package", f"Debian has no package {name}", hint=hint, exit=Exit.INPUT, where=where
    )
