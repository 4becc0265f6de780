"""The real image, built once for all tests of this folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from realimage import REF, ROOT, Real


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """Build it. ENVBUILD_REAL_STORE names a store to use and keep; else one is made and removed."""
    given = os.environ.get("ENVBUILD_REAL_STORE")
    store = Path(given) if given else tmp_path_factory.mktemp("real") / "store"

    def envbuild(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "envbuild", *arguments[:1], "--store", str(store), *arguments[1:]]
        done = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}"
        return done

    yield Real(store=store, answer=json.loads(envbuild("image", REF, "--json").stdout), envbuild=envbuild)
    if not given:
        shutil.rmtree(store, ignore_errors=True)
