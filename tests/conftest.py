"""What tests of several areas need: the sandbox of whoever runs them, and an ordinary user with subordinate ids.

A test that needs a program which this machine lacks is skipped: see :mod:`needed`.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import smallimage
from needed import explain, need

import envbuild
from envbuild.sandbox import Sandbox

USER = "envbuild-test"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts what it puts into the background so, and every child would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    for mark in item.iter_markers("needs"):
        need(*mark.args)
    try:
        return (yield)
    except FileNotFoundError as error:
        explain(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    try:
        return (yield)
    except FileNotFoundError as error:
        explain(error)
        raise


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return Sandbox.detect()


@pytest.fixture(scope="session")
def small(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[smallimage.SmallWorld]:
    """A small real image; takes some 20 s of two quiet cores. Whoever uses it is marked ``network``."""
    world = smallimage.make_world(tmp_path_factory.mktemp("small"), sandbox)
    yield world
    world.remove_roots(world.store)


@dataclass(frozen=True)
class Unprivileged:
    """An ordinary user with subordinate ids, and a Python that this user may start."""

    name: str
    python: str
    home: Path

    def run(
        self, code: str, *arguments: str, env: Mapping[str, str] | None = None, umask: int = 0o022
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code as the user, with a fresh environment and ``env``."""
        packages = [
            str(Path(envbuild.__file__).parents[1]),
            *(p for p in sys.path if p.endswith("-packages")),
        ]
        base = {"PATH": os.defpath + ":/usr/sbin", "PYTHONPATH": ":".join(packages), "HOME": str(self.home)}
        return subprocess.run(
            [self.python, "-c", code, *arguments],
            user=self.name,
            group=self.name,
            extra_groups=[],
            env={**base, **(env or {})},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            umask=umask,
        )


@pytest.fixture(scope="session")
def unprivileged() -> Unprivileged:
    """Needs root, to make the user; Debian's packages uidmap and python3."""
    assert os.getuid() == 0, "the tests make a user, so they need root"
    need("newuidmap")
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", USER], check=True)
        entry = pwd.getpwnam(USER)
    if f"{USER}:" not in Path("/etc/subuid").read_text():
        ranges = ["--add-subuids", "700000-765535", "--add-subgids", "700000-765535"]
        subprocess.run(["usermod", *ranges, USER], check=True)
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3.11"):
        try:
            subprocess.run([python, "-c", ""], user=USER, group=USER, extra_groups=[], check=True)
        except PermissionError:
            continue
        return Unprivileged(name=USER, python=python, home=Path(entry.pw_dir))
    raise AssertionError(f"{USER} can start no Python 3.11: install Debian's python3")
