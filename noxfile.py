"""Tasks: ``.venv/bin/nox`` lints and tests, ``-s real`` takes the real images, both in the Python that runs nox.

``-s lowest`` and ``-s newest`` try both ends of the bounds in pyproject.toml, in environments of their own;
``-s relock`` writes requirements-dev.txt anew.
"""

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


LOCK = "requirements-dev.txt"
LOCK_HEAD = """\
# What develops and tests envbuild, with hashes: pyproject.toml's dependencies and its extra "test", for every platform.
# Written by `nox -s relock`. Do not edit; a test compares it with pyproject.toml.
"""
BOUNDS = [
    *("tests/oci", "tests/recipe", "tests/cli/test_settings.py", "tests/project/test_development_lock.py"),
    *(f"tests/gate/test_{name}.py" for name in ("keys", "schema", "signatures", "verdicts")),
    *(f"tests/lock/test_{name}.py" for name in ("conda_solve", "lock_faults")),
    *(f"tests/render/test_{name}.py" for name in ("conda_files", "render")),
    *("tests/layers/test_wheel_layer_contents.py", "tests/sandbox/test_unpack.py"),
    *("tests/publish/test_sbom.py", "tests/publish/test_sigstore.py", "tests/registry/test_push_image.py"),
    "tests/engine/test_docker_engine.py",
]
"""What asks every dependency for what envbuild uses of it, in a minute or two."""


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


@nox.session
def relock(session: nox.Session) -> None:
    """Lock the development environment: the newest versions that pyproject.toml allows.

    ``-- --upgrade-package NAME`` moves that package only. The index is the one that uv's configuration names.
    """
    lock = Path(LOCK)
    how = session.posargs or ["--upgrade"]
    options = [
        "--universal",
        "--generate-hashes",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--no-annotate",
    ]
    _compile(session, "--quiet", *options, *how, "--output-file", LOCK)
    lines = [line for line in lock.read_text().splitlines(keepends=True) if not line.startswith("#")]
    lock.write_text(LOCK_HEAD + "".join(lines))


@nox.session
def lowest(session: nox.Session) -> None:
    """The lowest versions that pyproject.toml allows: style, types, and the tests of ``BOUNDS``."""
    _at_bounds(session, "lowest-direct")


@nox.session
def newest(session: nox.Session) -> None:
    """The newest versions that pyproject.toml allows: style, types, and the tests of ``BOUNDS``."""
    _at_bounds(session, "highest")


def _compile(session: nox.Session, *options: str) -> None:
    command = [
        str(BIN / "uv"),
        "pip",
        "compile",
        "--no-header",
        "--extra",
        "test",
        "--python-version",
        "3.11",
    ]
    session.run(*command, *options, "pyproject.toml")


def _at_bounds(session: nox.Session, resolution: str) -> None:
    """Make an environment of these versions and look at everything there; arguments take the place of ``BOUNDS``."""
    place = Path(".nox") / session.name
    python, wanted = place / "bin/python", place / "requirements.txt"
    uv = str(BIN / "uv")
    session.run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place))
    _compile(session, "--quiet", "--resolution", resolution, "--no-annotate", "--output-file", str(wanted))
    session.run(uv, "pip", "sync", "--quiet", "--python", str(python), str(wanted))
    project = ["--no-deps", "--no-build-isolation", "--editable", "."]
    session.run(uv, "pip", "install", "--quiet", "--python", str(python), *project)
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]):
        session.run(str(place / "bin" / command[0]), *command[1:])
    chosen = session.posargs or ["-m", "not real and not network and not torch", *BOUNDS]
    session.run(str(python), "-m", "pytest", "-q", *chosen)
