"""Tasks. They run in the Python that runs nox: ``.venv/bin/nox -s lint``."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types, the import ladder, shell scripts."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("shellcheck", ".ci/run", *_scripts(), external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Every test but those on the real wheels."""
    session.run("pytest", "-m", "not real", *session.posargs)


@nox.session
def real(session: nox.Session) -> None:
    """Build the real pytorch-cuda:v2.7, run it, build it again and compare (about 10 minutes, 25 GB of disk)."""
    session.run("pytest", "-m", "real", "--timeout=3000", *session.posargs)


def _scripts() -> list[str]:
    from pathlib import Path

    return [str(path) for path in sorted(Path("ci").glob("*.sh"))]
