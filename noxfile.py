"""Tasks. They run in the Python that runs nox: ``.venv/bin/nox`` lints and tests, ``-s real`` takes the real images."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]
BIN = Path(sys.executable).parent
FIRST_HALF = ["tests/smoke", "tests/examples", "tests/advise", "tests/ci", "tests/publish", "tests/registry"]
"""What trains and waits for its ranks, and then what publishes: about as long as all else."""


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types, the import ladder, shell scripts."""
    session.run(str(BIN / "ruff"), "check", ".")
    session.run(str(BIN / "ruff"), "format", "--check", ".")
    session.run(str(BIN / "mypy"))
    session.run(str(BIN / "lint-imports"))
    session.run(str(BIN / "shellcheck"), "--shell=sh", "envbuild/image/inside/profile.sh")
    scripts = ["tests/gpu/examples_on_gpus.sh", "examples/two-nodes/two_nodes.sh"]
    session.run(str(BIN / "shellcheck"), *scripts)
    scripts = [".ci/run", *(str(path) for path in sorted(Path("ci").rglob("*.sh")))]
    session.run(str(BIN / "shellcheck"), "--external-sources", *scripts)


@nox.session
def tests(session: nox.Session) -> None:
    """Every test but those on the real wheels.

    Without arguments in two halves at the same time: each waits a good deal, and seldom for the same thing.
    """
    command = [sys.executable, "-m", "pytest", "-m", "not real"]
    if session.posargs:
        session.run(*command, *session.posargs)
        return
    others = [*command, *(f"--ignore={folder}" for folder in FIRST_HALF)]
    with tempfile.TemporaryFile("w+") as output:
        first = subprocess.Popen([*command, *FIRST_HALF], stdout=output, stderr=subprocess.STDOUT)
        session.log(shlex.join(others))
        failed = ["the other tests"] if subprocess.run(others, check=False).returncode else []
        if first.wait():
            failed.append(" ".join(FIRST_HALF))
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout)
        sys.stdout.flush()
    if failed:
        session.error(f"tests failed: {', '.join(failed)}")


@nox.session
def real(session: nox.Session) -> None:
    """Build the real images to their locked digests and run them (about 20 minutes, 40 GB of disk)."""
    session.run(sys.executable, "-m", "pytest", "-m", "real", "--timeout=3000", *session.posargs)
