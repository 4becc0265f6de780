"""A checkout with recipes and the pipeline's scripts, run as a CI system runs them: a step with its variables."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from clirun import NOWHERE, ROOT
from smallimage import SmallWorld

for area in ("registry", "lock"):  # their stand-ins of the world outside are used here too
    sys.path.append(str(ROOT / "tests" / area))

from registry_server import start_registry  # noqa: E402


@dataclass(frozen=True)
class Checkout:
    """A git checkout in ``folder``; ``env`` is what every step finds set."""

    folder: Path
    env: Mapping[str, str]

    def git(self, *arguments: str) -> str:
        """What git prints."""
        return subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=dict(self.env),
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def commit(self, message: str = "a change") -> str:
        """Commit everything; the commit's hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def step(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``ci/pipeline/SCRIPT`` as a step does: in the checkout, by its path."""
        done = subprocess.run(
            [f"ci/pipeline/{script}"],
            cwd=self.folder,
            env={**self.env, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert not re.search("^Traceback", done.stderr, re.MULTILINE), done.stderr
        return done

    def with_env(self, **variables: str) -> Checkout:
        """The same checkout with more variables."""
        return replace(self, env={**self.env, **variables})


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """The scripts and no recipe; nothing outside is reachable."""
    home = tmp_path / "home"
    home.mkdir()
    folder = tmp_path / "checkout"
    for name in ("pipeline", "gitlab"):
        shutil.copytree(
            ROOT / "ci" / name, folder / "ci" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    (folder / "recipes").mkdir()
    (folder / ".gitignore").write_text("/proposal.md\n/out/\n")
    made = Checkout(
        folder=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_AUTHOR_NAME": "someone", "GIT_AUTHOR_EMAIL": "someone@example.com",
            "GIT_COMMITTER_NAME": "someone", "GIT_COMMITTER_EMAIL": "someone@example.com",
            "ENVBUILD_STORE": str(tmp_path / "store"),
            "ENVBUILD_PYTHON_INDEX": f"{NOWHERE}/simple",
            "ENVBUILD_DEBIAN_MIRROR": f"{NOWHERE}/debian",
            "UV_HTTP_RETRIES": "0",
        },
    )  # fmt: skip
    made.git("init", "--quiet", "--initial-branch=main")
    return made


@pytest.fixture
def on_small(checkout: Checkout, small: SmallWorld) -> Iterator[Checkout]:
    """The checkout with the recipe of the small image, and its store."""
    shutil.copytree(small.recipes, checkout.folder / "recipes", dirs_exist_ok=True)
    checkout.commit("recipes")
    yield checkout.with_env(ENVBUILD_STORE=str(small.store.root), ENVBUILD_ENGINE="sandbox")
    for name in list(small.store.layout.tags()):
        small.store.layout.untag(name)
    shutil.rmtree(small.store.root / "verdicts", ignore_errors=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of an empty registry."""
    folder = tmp_path / "registry"
    folder.mkdir()
    process, port = start_registry(folder)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()
