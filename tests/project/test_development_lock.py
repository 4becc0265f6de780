"""requirements-dev.txt: what develops and tests envbuild, by version and hash, the same on every machine."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements-dev.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
AGAIN = "run `nox -s relock`"


def entries() -> Iterator[tuple[Requirement, list[str]]]:
    """What the lock names, each with its hashes."""
    text = re.sub(r"^#.*\n", "", LOCK.read_text(), flags=re.M)
    for entry in text.replace("\\\n", " ").splitlines():
        words = entry.split(" --hash=")
        yield Requirement(words[0].strip()), [word.strip() for word in words[1:]]


def requirements() -> list[Requirement]:
    """Everything that pyproject.toml asks for: to run, to test, to build."""
    project = PROJECT["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return [Requirement(text) for text in [*texts, *PROJECT["build-system"]["requires"]]]


@pytest.fixture(scope="module")
def locked() -> dict[str, Version]:
    found = {}
    for requirement, _ in entries():
        if requirement.marker is None or requirement.marker.evaluate():
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            found[canonicalize_name(requirement.name)] = Version(pin.version)
    return found


@pytest.mark.parametrize("wanted", requirements(), ids=str)
def test_every_requirement_is_in_it_with_a_version_that_fits(
    wanted: Requirement, locked: dict[str, Version]
) -> None:
    version = locked.get(canonicalize_name(wanted.name))
    assert version is not None, f"{LOCK.name} has no {wanted.name}: {AGAIN}"
    assert wanted.specifier.contains(version, prereleases=True), f"{LOCK.name} has {version}: {AGAIN}"


def test_every_version_has_hashes() -> None:
    for requirement, hashes in entries():
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), requirement


def test_it_names_no_index_no_address_and_no_folder() -> None:
    text = LOCK.read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash=)", text, re.M)
    assert not re.search(r"(^|\s)\.{0,2}/", text, re.M)
    assert " @ " not in text


def test_what_builds_the_project_is_among_the_tests_requirements() -> None:
    """So that ``pip install --no-build-isolation`` finds it: the lock comes from that extra."""
    test = {Requirement(text).name: text for text in PROJECT["project"]["optional-dependencies"]["test"]}
    assert {name: test.get(name) for name in ("hatchling",)} == {
        Requirement(text).name: text for text in PROJECT["build-system"]["requires"]
    }
    assert "editables" in test  # what hatchling asks for besides, for an editable installation


def test_every_requirement_has_a_lower_bound() -> None:
    """Without one ``nox -s lowest`` takes a release from before the package could be used."""
    assert [str(wanted) for wanted in requirements() if not wanted.specifier] == []


def test_what_envbuild_imports_a_plain_installation_brings() -> None:
    """No module may need an extra. torch and the like are imported by the suite, which runs inside images."""
    inside = {"deepspeed", "torch", "triton"}
    dependencies = {canonicalize_name(Requirement(text).name) for text in PROJECT["project"]["dependencies"]}
    names = {
        "cyclonedx": "cyclonedx-python-lib",
        "packageurl": "packageurl-python",
        "rattler": "py-rattler",
        "yaml": "pyyaml",
    }
    imported = set()
    for path in (ROOT / "envbuild").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    third = imported - set(sys.stdlib_module_names) - {"envbuild", "smoke"} - inside
    assert {names.get(name, canonicalize_name(name)) for name in third} <= dependencies
