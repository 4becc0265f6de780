"""One small image for all tests of this folder, in a real Docker engine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import programsimage
import pytest

from envbuild.sandbox import Sandbox


@pytest.fixture(scope="session")
def image(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[programsimage.Image]:
    """Takes some 40 s of two quiet cores."""
    if os.environ.get("ENVBUILD_TEST_NO_DOCKER") == "1":
        pytest.skip("ENVBUILD_TEST_NO_DOCKER=1: no Docker engine on this machine, by the caller's word")
    given = os.environ.get(programsimage.GIVEN)
    if given:
        yield programsimage.Image(name=given)
        return
    reference, store = programsimage.make_image(tmp_path_factory.mktemp("programs"), sandbox)
    try:
        yield programsimage.load(reference)
    finally:
        programsimage.docker("rmi", "-f", programsimage.TAG, check=False)
        for root in store.roots.iterdir():
            sandbox.remove(root)
        store.close()


@dataclass(frozen=True)
class Key:
    """A key pair of ssh-keygen."""

    private: Path
    public: str


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key]:
    """One that is let in, and another."""
    folder = tmp_path_factory.mktemp("keys")
    made = []
    for name in ("mine", "other"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True
        )
        made.append(Key(private=folder / name, public=(folder / f"{name}.pub").read_text()))
    return made[0], made[1]
