"""The small image, a real registry, and the command line on both."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_proxy import RegistryProxy
from registry_server import start_registry
from shop import Shop, open_shop
from smallimage import SmallWorld

from envbuild.sandbox.unpack import root_name
from envbuild.store import Store


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's docker-registry on 127.0.0.1, empty at first; its host and port."""
    process, port = start_registry(tmp_path_factory.mktemp("published"))
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def shop(tmp_path: Path, small: SmallWorld, registry: str, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """Nothing but the registry can be reached; the lock names the image's digests."""
    name = request.node.name.lower().replace("[", "-").strip("]")[:60].strip("-_.")
    yield open_shop(tmp_path, small, registry, f"team/{name}-{time.monotonic_ns()}")
    for name in list(small.store.layout.tags()):
        small.store.layout.untag(name)
    shutil.rmtree(small.store.root / "verdicts", ignore_errors=True)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, small: SmallWorld, registry: str) -> Shop:
    """Published once, with its tag, by a machine that proved the image itself; tests read it and change nothing."""
    found = open_shop(tmp_path_factory.mktemp("shelf"), small, registry, "team/shelf")
    done = found.publish("--verdict", str(found.verdict()))
    assert done.code == 0, done.err
    return found


@pytest.fixture
def front(registry: str) -> Iterator[RegistryProxy]:
    """A proxy before the registry."""
    proxy = RegistryProxy(int(registry.rpartition(":")[2]))
    yield proxy
    proxy.close()


@pytest.fixture
def bare_store(small: SmallWorld, tmp_path: Path) -> Store:
    """A store with the small image's artifacts and the base that the sandbox made; every layer is still to be made."""
    store = Store.open(tmp_path / "bare")
    for artifact in (*small.lock.debian, *small.lock.python):
        os.link(small.store.artifact(artifact.sha256), store.artifact(artifact.sha256))
    shutil.copytree(small.store.root / "cache/base", store.root / "cache/base")
    base = small.built.image.layers[0]
    os.link(small.store.layout.path(base.digest), store.layout.path(base.digest))
    root = root_name([base.diff_id])
    (store.roots / root).symlink_to(small.store.roots / root)
    return store
