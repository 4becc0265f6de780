"""A Python that has DeepSpeed, for what is compared with DeepSpeed itself."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needed import lacking

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def deepspeed_python() -> str:
    """This Python, or the one that ENVBUILD_TORCH_PYTHON names (`ci/torch-cpu.sh` makes one)."""
    named = os.environ.get("ENVBUILD_TORCH_PYTHON")
    if named:
        return named
    if not (importlib.util.find_spec("deepspeed") and importlib.util.find_spec("torch")):
        lacking("no DeepSpeed here: set ENVBUILD_TORCH_PYTHON to a Python that has it and torch")
    return sys.executable


@pytest.fixture(scope="session")
def ask_deepspeed(deepspeed_python: str) -> Callable[[str, object], Any]:
    """Run code in that Python; ``given`` is what was given, and ``answer`` what comes back, both as JSON."""

    def ask(code: str, given: object) -> Any:
        program = (
            "import json, logging, sys\nlogging.disable(logging.CRITICAL)\n"
            f"given = json.loads(sys.stdin.read())\n{code}\nprint('ANSWER', json.dumps(answer))\n"
        )
        done = subprocess.run(
            [deepspeed_python, "-c", program],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "DS_ACCELERATOR": "cpu"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.rpartition("ANSWER ")[2])

    return ask
