from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_server import FaultyServer

from envbuild.store import Http, Store
from envbuild.store.retry import Patience


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def http(tmp_path: Path) -> Http:
    """Impatient: the tests' faults are over at once."""
    return Http(
        environ={"HOME": str(tmp_path)},
        connect_timeout=5,
        read_timeout=0.5,
        patience=Patience(tries=3, first=0.01, longest=0.02, longest_asked=0.05),
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
