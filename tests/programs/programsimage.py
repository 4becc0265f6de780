"""A small real image with parts: the locked .debs of ssh, the locked wheels of JupyterLab; and ways to run it."""

from __future__ import annotations

import os
import re
import subprocess
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import smallimage
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envbuild.engine.docker import Docker
from envbuild.engine.model import ImageRef
from envbuild.image.assemble import assemble
from envbuild.image.workshop import Workshop
from envbuild.lock import Lock, read_lock
from envbuild.lock.model import Artifact
from envbuild.progress import SilentProgress
from envbuild.sandbox import Sandbox
from envbuild.store import Store

DEBIAN = ("openssh-server", "openssh-client", "pdsh", "procps", "libstdc++6")
TAG = "envbuild-test-programs:v1-candidate"


def make_image(folder: Path, sandbox: Sandbox) -> tuple[ImageRef, Store]:
    """``small:v1`` with the parts jupyter and ssh, in a store of its own."""
    store = Store.open(folder / "store")
    committed = read_lock(smallimage.COMMITTED)
    debian = smallimage.interpreter_closure(smallimage.bring_debs(store), store, DEBIAN)
    jupyter = wheel_closure(committed, "jupyterlab", store)
    recipes = smallimage.small_recipes(folder / "recipes")
    recipe = recipes / "small/v1/recipe.toml"
    recipe.write_text('parts = ["jupyter", "ssh"]\n' + recipe.read_text())
    made = [smallimage.wheel_artifact(*pins, store=store) for pins in smallimage.WHEELS.items()]
    lock = smallimage.small_lock(recipes, debian, [*made, *jupyter])
    workshop = Workshop(
        store=store,
        progress=SilentProgress(),
        jobs=2,
        fetch=smallimage.unreachable,
        sandbox=lambda: sandbox,
    )
    return ImageRef.read(store.layout, assemble(lock, workshop).image.digest, (TAG,)), store


def wheel_closure(lock: Lock, name: str, store: Store) -> list[Artifact]:
    """The locked wheels that ``name`` requires, with itself, brought into ``store``."""
    locked = {wheel.name: wheel for wheel in lock.python}
    todo, seen, closure = {(name, "")}, set[tuple[str, str]](), dict[str, Artifact]()
    while todo := todo - seen:
        smallimage.bring(lock, [locked[one] for one, _ in todo if one not in closure], store)
        closure |= {one: locked[one] for one, _ in todo}
        seen |= todo
        todo = {
            required
            for one, extra in todo
            for required in _required(store.artifact(locked[one].sha256), extra)
        }
    return list(closure.values())


def _required(wheel: Path, extra: str) -> Iterator[tuple[str, str]]:
    """What a wheel (with an extra, or none) requires: names, each alone and with each extra."""
    with zipfile.ZipFile(wheel) as archive:
        path = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = archive.read(path).decode()
    environment = {"python_version": "3.11", "python_full_version": "3.11.2", "extra": extra}
    for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield from ((canonicalize_name(requirement.name), one) for one in ("", *requirement.extras))


def docker(*argv: str, check: bool = True, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Debian's own client; what it prints is part of a failure."""
    done = subprocess.run(
        ["/usr/bin/docker", *argv], capture_output=True, text=True, check=False, input=input
    )
    assert not check or done.returncode == 0, (
        f"docker {' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done


@dataclass(frozen=True)
class Container:
    """A container that runs in the background."""

    name: str

    def logs(self) -> str:
        """What it printed so far, both streams."""
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """The log, as soon as it has ``text``."""
        until = time.monotonic() + seconds
        while text not in (told := self.logs()):
            alive = docker("inspect", "-f", "{{.State.Running}}", self.name).stdout.strip() == "true"
            assert alive or text in self.logs(), f"it ended without {text!r}:\n{told}"
            assert time.monotonic() < until, f"no {text!r} in {seconds} s:\n{told}"
            time.sleep(0.1)
        return told

    def port(self, inside: int) -> int:
        """The port on this machine's loopback."""
        return int(docker("port", self.name, str(inside)).stdout.split(":")[-1])

    def run(self, *argv: str, check: bool = True) -> str:
        """A command inside, as ``docker exec``; its output."""
        done = docker("exec", self.name, *argv, check=check)
        return done.stdout + ("" if check else done.stderr)


@dataclass(frozen=True)
class Image:
    """The image in the engine, and the variables of every container of a test."""

    name: str
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, argv: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
        """``docker run --rm``, to its end; it may fail."""
        return docker("run", "--rm", *options, self.name, *argv, check=False)

    @contextmanager
    def start(self, argv: Sequence[str], *options: str) -> Iterator[Container]:
        """``docker run -d``, removed afterwards."""
        name = docker("run", "-d", *options, self.name, *argv).stdout.strip()
        try:
            yield Container(name)
        finally:
            docker("rm", "-f", "-v", name)


GIVEN = "ENVBUILD_TEST_PROGRAMS_IMAGE"
"""A variable: the name of an image in the engine to test instead, such as ``pytorch-cuda:v2.7-candidate``."""


def load(reference: ImageRef) -> Image:
    """Into the engine, whose absence fails the test."""
    Docker.connect(os.environ).load(reference, SilentProgress())
    return Image(name=TAG)
