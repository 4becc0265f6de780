"""A copy of examples/ to run in, and a Python that has torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from needed import lacking

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Workspace:
    """``examples`` is a copy; commands run with the environment of ``python``, without GPUs."""

    examples: Path
    python: Path

    def run(self, *command: str, folder: str = ".", **environ: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": f"{self.python.parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
        # One thread a process: two processes with two threads each wait for each other on two processors.
        env |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **environ}
        return subprocess.run(
            list(command),
            cwd=self.examples / folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )


@pytest.fixture(scope="session")
def torch_python() -> Path:
    """This Python, or the one that ENVBUILD_TORCH_PYTHON names (ci/torch-cpu.sh makes it)."""
    python = os.environ.get("ENVBUILD_TORCH_PYTHON", sys.executable)
    asked = (
        "import importlib.util as u, sys; sys.exit(not (u.find_spec('torch') and u.find_spec('deepspeed')))"
    )
    if subprocess.run([python, "-c", asked], check=False).returncode:
        lacking("no torch with deepspeed: set ENVBUILD_TORCH_PYTHON to a Python that has both")
    return Path(python)


@pytest.fixture
def workspace(torch_python: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return Workspace(examples=tmp_path / "examples", python=torch_python)
