"""Whether a recipe and its conda lock agree, without a look at any channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from envbuild.lock.compare import differences
from envbuild.lock.conda.frompip import pip_problems
from envbuild.lock.conda.model import CondaLock
from envbuild.lock.conda.records import to_record, virtual_records
from envbuild.lock.conda.specs import FROM_PIP, environment_specs, interpreter_specs, virtual
from envbuild.recipe.model import Recipe

if TYPE_CHECKING:
    from rattler import MatchSpec


def check_conda(recipe: Recipe, lock: CondaLock) -> list[str]:
    """The differences, one a line, in the recipe's terms; empty where recipe and conda lock agree.

    Besides what the lock remembers of the recipe, the locked packages are held against what the recipe asks for and
    against each other: a lock that was edited by hand does not pass.
    """
    found = [] if recipe.ref == lock.ref else [f"the conda lock is that of {lock.ref}"]
    found += differences(recipe.conda_dict(), lock.recipe)
    return found or list(_locked(recipe, lock))


def follows_conda(lock: CondaLock, parent: CondaLock) -> list[str]:
    """Where the conda lock of a recipe holds other files than that of the recipe that it extends, one a line.

    Only what both hold is compared, and only where both ask for the same channels, Python and C library.
    """
    if lock.virtual.get("__glibc") != parent.virtual.get("__glibc") or lock.channels != parent.channels:
        return []
    there = {package.name: (package.file, package.sha256) for package in parent.packages}
    mine = [(package.name, package.file, package.sha256) for package in lock.packages]
    from_pip = {item.name: (item.file, item.sha256) for item in parent.pip if item.name in FROM_PIP}
    mine_from_pip = [(item.name, item.file, item.sha256) for item in lock.pip]
    return [
        f"{name}: {parent.ref} locks {known[name][0]}, this lock holds {file}"
        for known, held in ((there, mine), (from_pip, mine_from_pip))
        for name, file, sha256 in held
        if name in known and known[name][1] != sha256
    ]


def _locked(recipe: Recipe, lock: CondaLock) -> Iterator[str]:
    wanted = virtual(recipe)
    if lock.virtual != wanted:
        yield f"virtual packages: the recipe gives {_shown(wanted)}, the lock has {_shown(lock.virtual)}"
    specs = environment_specs(recipe, ()) if recipe.makes_environment else interpreter_specs(recipe)
    for spec in specs:
        if spec.text not in lock.specs:
            yield f"{spec.text}: the recipe asks for it ({spec.why}), the lock was not made with it"
    yield from _consistent(lock)
    yield from pip_problems(recipe, lock)


def _consistent(lock: CondaLock) -> Iterator[str]:
    """What is asked for and depended on must be there in a version and build that fits."""
    from rattler import MatchSpec

    records = {
        **virtual_records(lock.virtual),
        **{item.name: to_record(lock, item) for item in lock.packages},
    }

    def seen(text: str) -> str | None:
        """What the lock holds where it is not what the spec wants."""
        spec = MatchSpec(text)
        record = records.get(_name(spec))
        if record is None:
            return "none"
        return None if spec.matches(record) else f"{record.version} {record.build}"

    for text in lock.specs:
        if held := seen(text):
            yield f"{text}: asked for, the lock holds {held}"
    for package in lock.packages:
        for text in package.depends:
            if held := seen(text):
                yield f"{package.name} {package.version} needs {text}, the lock holds {held}"
        for text in package.constrains:
            held = seen(text)
            if held and held != "none":
                yield f"{package.name} {package.version} goes with {text} only, the lock holds {held}"


def _name(spec: MatchSpec) -> str:
    return spec.name.normalized or "" if spec.name else ""


def _shown(values: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(values.items())) or "none"
