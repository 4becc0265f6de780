"""How envbuild is installed: from a clone or a wheel of one's own. The project owns no name on a public index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = r"(?:pip3?|pipx|uvx?|conda|mamba)"
INSTALLS = re.compile(rf"{TOOLS} (?:pip )?(?:install|add|run|inject|download)\b")
NAME = re.compile(r"(?:^|[\s'\"`])envbuild(?=$|[\s'\"`\[=~<>!),.;])")
REQUIREMENT = re.compile(r"\benvbuild(?:\[[a-z,]+\]|(?:==|>=|~=)\s*\d)")
"""The name as a requirement."""


def texts() -> list[tuple[str, str]]:
    """Every text of the project that a user may read or run, but for this one."""
    folders = (".ci", "benchmarks", "ci", "dockerfiles", "docs", "envbuild", "examples", "recipes", "tests")
    paths = [path for path in ROOT.iterdir() if path.is_file()]
    paths += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    kinds = {".md", ".py", ".sh", ".yml", ".yaml", ".toml", ".txt", ".j2", ""}
    return [
        (str(path.relative_to(ROOT)), path.read_text(errors="replace"))
        for path in sorted(paths)
        if path.suffix in kinds and path != Path(__file__)
    ]


def says(text: str) -> list[str]:
    """The lines of a text that tell to take envbuild from an index."""
    return [line for line in text.splitlines() if REQUIREMENT.search(line) or by_name(line)]


def by_name(line: str) -> bool:
    """Whether a command in the line installs it: up to the command's end, or the quotation's."""
    installs = INSTALLS.search(line)
    return installs is not None and NAME.search(re.split(r"[`&|;]", line[installs.end() :])[0]) is not None


def test_nobody_is_told_to_install_the_name_envbuild_from_an_index() -> None:
    told = [f"{name}: {line.strip()}" for name, text in texts() for line in says(text)]
    assert told == []


@pytest.mark.parametrize(
    "line",
    [
        "hint=\"pip install 'envbuild[conda]'\"",
        "`envbuild[conda]==0.1.0`. By default the checkout itself is installed.",
        "Update envbuild: `pip install --upgrade envbuild`.",
        "uv pip install envbuild",
        "pipx install envbuild==0.1.0",
    ],
)
def test_such_a_line_would_be_found(line: str) -> None:
    assert says(line)


@pytest.mark.parametrize(
    "line",
    [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/envbuild image pytorch-cuda:v2.7",
        ".venv/bin/pip install -q -e . && .venv/bin/nox",
    ],
)
def test_a_clone_may_be_installed(line: str) -> None:
    assert not says(line)
