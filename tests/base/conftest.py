"""The real base of pytorch-cuda:v2.7, built once a session from the locked packages."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from needed import need
from platformdirs import user_cache_path

import envbuild
from envbuild.layers.base import base_root, build_base
from envbuild.lock import Indexes, read_lock, sources_for
from envbuild.lock.model import Artifact
from envbuild.oci.layer import Layer
from envbuild.progress import SilentProgress
from envbuild.sandbox import Sandbox
from envbuild.store import Http, Store, Wanted, fetch

LOCK = Path(envbuild.__file__).parents[1] / "recipes/pytorch-cuda/v2.7/lock.json"


@dataclass(frozen=True)
class Base:
    """The built layer, its root, its store, and the packages it was made of."""

    layer: Layer
    root: Path
    store: Store
    debs: list[tuple[Artifact, Path]]


@pytest.fixture(scope="session")
def locked_debs() -> list[tuple[Artifact, Path]]:
    """The locked packages, in the user's own store (ENVBUILD_STORE or the default), fetched if they are missing."""
    lock = read_lock(LOCK)
    store = Store.open(Path(os.environ.get("ENVBUILD_STORE") or user_cache_path("envbuild")))
    missing = [deb for deb in lock.debian if not store.has(deb.sha256, deb.size)]
    if missing:
        need("gpgv")
        http, silent = Http(environ=os.environ), SilentProgress()
        indexes = Indexes.from_machine(os.environ)
        sources = sources_for(lock, missing, indexes=indexes, http=http, progress=silent)
        wanted = [
            Wanted(
                name=deb.name,
                file=deb.basename,
                sha256=deb.sha256,
                size=deb.size,
                sources=sources[deb.sha256],
            )
            for deb in missing
        ]
        fetch(store, wanted, http=http, jobs=4, progress=silent)
    return [(deb, store.artifact(deb.sha256)) for deb in lock.debian]


@pytest.fixture(scope="session")
def base(locked_debs, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Takes 20 to 30 s of two quiet cores."""
    store = Store.open(tmp_path_factory.mktemp("base") / "store")
    silent = SilentProgress()
    layer = build_base(locked_debs, sandbox=sandbox, store=store, progress=silent)
    root = base_root(layer, sandbox=sandbox, store=store, progress=silent)
    return Base(layer=layer, root=root, store=store, debs=locked_debs)
