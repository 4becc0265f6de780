"""The real images, each built once for all tests of this folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from realimage import REF, ROOT, Real

from envbuild.oci.layout import Layout


@pytest.fixture(scope="session")
def real_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """ENVBUILD_REAL_STORE names a store to use and keep as it is; else one is made and removed."""
    given = os.environ.get("ENVBUILD_REAL_STORE")
    store = Path(given) if given else tmp_path_factory.mktemp("real") / "store"
    yield store
    if not given:
        shutil.rmtree(store, ignore_errors=True)


@pytest.fixture(scope="session")
def real(real_store: Path) -> Real:
    """pytorch-cuda:v2.7, built."""
    return built(real_store, REF)


@pytest.fixture(scope="module", params=["pytorch-cuda:v2.8", "pytorch-cuda:v2.11"])
def another(
    request: pytest.FixtureRequest, real_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Real:
    """Another recipe, built after what the ones before need alone was removed: all at once take over 50 GB.

    It is built under another umask and time zone, and with another hash seed, than its lock was made under.
    """
    if "ENVBUILD_REAL_STORE" not in os.environ:
        make_room(real_store, request.param, tmp_path_factory.mktemp("known"))
    return built(
        real_store, request.param, umask=0o077, environ={"TZ": "Pacific/Chatham", "PYTHONHASHSEED": "7"}
    )


def built(
    store: Path, ref: str, *, umask: int = -1, environ: Mapping[str, str] = MappingProxyType({})
) -> Real:
    """Build the image of ``ref`` in ``store``; a candidate is loaded into Docker only where it is v2.7's.

    ``umask`` (-1: this process's) and ``environ`` are envbuild's in this and all later calls.
    """

    def envbuild(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "envbuild", *arguments[:1], "--store", str(store), *arguments[1:]]
        env = {**os.environ, **environ}
        done = subprocess.run(
            command, check=False, cwd=ROOT, stdout=subprocess.PIPE, text=True, umask=umask, env=env
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}"
        return done

    load = [] if ref == REF else ["--no-load"]
    answer = json.loads(envbuild("image", ref, *load, "--json").stdout)
    return Real(ref=ref, store=store, answer=answer, envbuild=envbuild)


def make_room(store: Path, ref: str, folder: Path) -> None:
    """Collect everything that ``ref`` and its devel variant do not need, and what Docker has of other candidates."""
    if not store.exists():
        return
    name, _, tag = ref.partition(":")
    for known in (tag, f"{tag}-devel"):
        shutil.copytree(ROOT / "recipes" / name / known, folder / name / known)
    layout = Layout(store / "oci")
    for image in layout.tags():
        layout.untag(image)
        subprocess.run(["/usr/bin/docker", "image", "rm", "--force", image], check=False, capture_output=True)
    command = [sys.executable, "-m", "envbuild", "gc", "--store", str(store), "--recipes", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT)
    subprocess.run(["df", "-h", str(store)], check=True)
