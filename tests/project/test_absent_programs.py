"""A machine that lacks a program loses the tests that need it, and no others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from needed import PACKAGES

ROOT = Path(__file__).parents[2]


def pytest_here(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "ENVBUILD_TEST_STRICT": "0", **environ}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def without_skopeo(tmp_path: Path) -> str:
    """A PATH with every program of this machine but skopeo."""
    for folder in ("/usr/sbin", "/usr/bin"):
        for program in Path(folder).iterdir():
            if program.name != "skopeo" and not (tmp_path / program.name).is_symlink():
                (tmp_path / program.name).symlink_to(program)
    return str(tmp_path)


@pytest.mark.timeout(900)
def test_every_test_is_collected_where_no_program_is_installed(tmp_path: Path) -> None:
    done = pytest_here("--collect-only", PATH=str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not re.search(r"^ERROR ", done.stdout, re.M)


@pytest.mark.needs("skopeo")
def test_a_test_whose_program_is_absent_is_skipped_and_the_others_run(without_skopeo: str) -> None:
    done = pytest_here("tests/oci/test_layout.py", PATH=without_skopeo)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^SKIPPED \[2\] .*: needs skopeo: apt-get install skopeo$", done.stdout, re.M)
    assert re.search(r"^\d\d passed, 2 skipped", done.stdout, re.M)


@pytest.mark.needs("skopeo")
def test_where_nothing_may_be_lacking_it_fails(without_skopeo: str) -> None:
    arguments = ("tests/oci/test_layout.py", "-k", "skopeo")
    done = pytest_here(*arguments, PATH=without_skopeo, ENVBUILD_TEST_STRICT="1")
    assert done.returncode == 1, done.stdout
    assert "needs skopeo: apt-get install skopeo (ENVBUILD_TEST_STRICT=1" in done.stdout
    assert re.search(r"^2 failed", done.stdout, re.M)


@pytest.mark.needs("skopeo")
def test_a_module_that_says_what_it_needs_is_skipped_whole(without_skopeo: str) -> None:
    done = pytest_here("tests/layers/test_partial_pulls.py", PATH=without_skopeo)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ skipped in", done.stdout, re.M)


def test_the_projects_own_ci_installs_every_package_and_lets_none_be_absent() -> None:
    text = (ROOT / ".ci/run").read_text()
    installed = set(re.findall(r"[\w.+-]+", " ".join(re.findall(r"apt-get install((?:.*\\\n)*.*)\n", text))))
    packages = {name.partition(" ")[0] for name in PACKAGES.values()}
    assert packages - installed - {"dpkg"} == set()
    assert "export ENVBUILD_TEST_STRICT=1" in text
