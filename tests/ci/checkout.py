"""A checkout with recipes and the pipeline's scripts, run as a CI system runs them: a step with its variables."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path


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
