"""Tasks. They run in the Python that runs nox: ``.venv/bin/nox`` lints and tests, ``-s real`` takes the real images."""

from __future__ import annotations

import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]
BIN = Path(sys.executable).parent


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
    session.run(str(BIN / "shellcheck"), ".ci/run", *(str(path) for path in sorted(Path("ci").glob("*.sh"))))


@nox.session
def tests(session: nox.Session) -> None:
    """Every test but those on the real wheels."""
    session.run(sys.executable, "-m", "pytest", "-m", "not real", *session.posargs)


@nox.session
def real(session: nox.Session) -> None:
    """Build the real images, run them, build v2.7 again and compare (about 20 minutes, 30 GB of disk)."""
    session.run(sys.executable, "-m", "pytest", "-m", "real", "--timeout=3000", *session.posargs)
