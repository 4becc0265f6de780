"""The committed lock against this machine's real indexes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from envbuild.lock import Indexes, read_lock, sources_for
from envbuild.progress import SilentProgress
from envbuild.store import Http

LOCK = Path(__file__).parents[2] / "recipes/pytorch-cuda/v2.7/lock.json"


@pytest.mark.network
def test_every_file_of_the_committed_lock_is_offered_with_its_size() -> None:
    lock = read_lock(LOCK)
    assert lock.native is not None
    native = [lock.native.source, *lock.native.toolchain, *lock.native.build]
    artifacts = [*lock.debian, *lock.python, *native]
    indexes = Indexes.from_machine(os.environ)
    http = Http(environ=indexes.environ)
    found = sources_for(lock, artifacts, indexes=indexes, http=http, progress=SilentProgress())
    assert set(found) == {item.sha256 for item in artifacts}
    sizes = {}
    for item in [*lock.debian[::20], *lock.python[::8], *native]:
        with http.open(found[item.sha256][-1].url, method="HEAD") as answer:
            sizes[item.file] = (answer.status, int(answer.headers.get("Content-Length", "0")))
        assert sizes[item.file] == (200, item.size)
    assert len(sizes) > 10
