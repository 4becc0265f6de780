"""A build on another day gives the same image: dpkg, the interpreter and gzip see a clock that is years ahead."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from needed import FILES, need
from smallimage import SmallWorld

from envbuild.image.assemble import assemble
from envbuild.image.verify import differences
from envbuild.sandbox import Bind, Command, Rootfs, Sandbox
from envbuild.store import Store

pytestmark = pytest.mark.network  # for the Debian packages of the small image

LIBRARY = FILES["libfaketime"]
CLOCK: Mapping[str, str] = {
    "LD_PRELOAD": "/tmp/libfaketime.so.1",
    "FAKETIME": "@2031-05-06 07:08:09",
    "NO_FAKE_STAT": "1",
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
}


class Elsewhen(Sandbox):
    """The sandbox with libfaketime preloaded in every program that it runs."""

    def run(self, rootfs: Rootfs, command: Command, **streams: Any) -> int:
        bind = Bind(source=LIBRARY, target="/tmp/libfaketime.so.1")
        shifted = replace(command, env={**command.env, **CLOCK}, binds=(*command.binds, bind))
        return Sandbox.run(self, rootfs, shifted, **streams)


@pytest.fixture
def elsewhen() -> Sandbox:
    need("libfaketime")
    return Elsewhen(maps=Sandbox.detect().maps)


def test_the_clock_is_shifted_there(elsewhen: Sandbox, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b") as out:
        status = elsewhen.run(
            Rootfs(lowers=(Path("/"),)), Command(argv=("/bin/date", "+%Y"), env={"TZ": "UTC"}), stdout=out
        )
        out.seek(0)
        assert (status, out.read()) == (0, b"2031\n")
    assert subprocess.run(["date", "+%Y"], capture_output=True, check=True).stdout != b"2031\n"


def test_another_date_gives_the_same_image(small: SmallWorld, elsewhen: Sandbox, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for artifact in (*small.lock.debian, *small.lock.python):
        target = store.artifact(artifact.sha256)
        target.write_bytes(small.store.artifact(artifact.sha256).read_bytes())
    workshop = replace(small.workshop(), store=store, sandbox=lambda: elsewhen)
    try:
        image = assemble(small.lock, workshop).image
        assert list(differences(small.built.image, image, small.store, store)) == []
        assert image == small.built.image
    finally:
        for root in store.roots.iterdir():
            elsewhen.remove(root)
