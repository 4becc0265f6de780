"""Engines that stop in the middle, cannot reach us, or may not be used. Each test has a dockerd of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tinyimage
from needed import need

from envbuild.engine import ImageRef, RunCommand
from envbuild.engine.docker import Docker
from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import SilentProgress

pytestmark = pytest.mark.docker
Make = Callable[..., ImageRef]


class Daemon:
    """A dockerd with its own folder, socket and bridge. Starting one needs root.

    (Not ``--bridge=none``: that removes the bridge of the machine's own engine.)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bridge = "ebd" + secrets.token_hex(4)
        self.environ = {"DOCKER_HOST": f"unix://{folder}/s"}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *prefix: str) -> Docker:
        for left in ("pid", "s"):
            (self.folder / left).unlink(missing_ok=True)
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [*prefix, shutil.which("dockerd", path="/usr/sbin:/usr/bin") or "dockerd"]
            + [
                f"--data-root={self.folder}/data",
                f"--exec-root={self.folder}/exec",
                f"--pidfile={self.folder}/pid",
            ]
            + [
                "--iptables=false",
                "--ip6tables=false",
                f"--bridge={self.bridge}",
                f"--host=unix://{self.folder}/s",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        for _ in range(300):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                return Docker.connect(self.environ)
            except EnvbuildError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def kill(self) -> None:
        """As the kernel does when memory runs out: dockerd and its containerd, at once."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def docker(self, *argv: str) -> str:
        done = subprocess.run(
            ["/usr/bin/docker", *argv],
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


def link(*argv: str) -> None:
    subprocess.run(["busybox", "ip", "link", *argv], check=True)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    if os.environ.get("ENVBUILD_TEST_NO_DOCKER") == "1":
        pytest.skip("ENVBUILD_TEST_NO_DOCKER=1: no Docker engine on this machine, by the caller's word")
    folder = Path(tempfile.mkdtemp(prefix="ebd-"))
    made = Daemon(folder)
    link("add", "name", made.bridge, "type", "bridge")
    yield made
    link("delete", made.bridge)
    if made.process is not None and made.process.poll() is None:
        made.process.terminate()
        made.process.wait()
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        if line.split()[1].startswith(str(folder)):
            subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
    shutil.rmtree(folder, ignore_errors=True)


class OnFirstAdvance(SilentProgress):
    """Does something when the first progress is reported, and remembers the notes."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self.notes: list[str] = []
        self.acted = False

    def advance(self, amount: int) -> None:
        if not self.acted:
            self.acted = True
            self._act()

    def total(self, total: int) -> None:
        """Not needed."""

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[OnFirstAdvance]:  # type: ignore[override]
        yield self

    def note(self, text: str) -> None:
        self.notes.append(text)


def large_layers(image_layout: object, count: int) -> list[object]:
    return [
        tinyimage.tar_layer(image_layout, f"big{n}", {f"big{n}": bytes([n]) * (60 << 20)})  # type: ignore[arg-type]
        for n in range(count)
    ]


def test_an_engine_killed_in_the_middle_of_a_load(daemon: Daemon, make_image: Make, layout: object) -> None:
    engine = daemon.start()
    image = make_image(*large_layers(layout, 4))
    progress = OnFirstAdvance(daemon.kill)
    with pytest.raises(EnvbuildError) as caught:
        engine.load(image, progress)
    assert progress.acted
    assert (caught.value.id, caught.value.exit) == ("engine-stopped", Exit.ENGINE)
    assert "docker info" in caught.value.hint

    again = daemon.start()
    assert daemon.docker("images", "--all", "--quiet") == "", "something was left with a name"
    again.load(image, SilentProgress())
    assert daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}") == image.names[0]
    assert daemon.docker("images", "--digests", "--format", "{{.Digest}}") == "<none>"


def test_an_engine_killed_under_a_container(daemon: Daemon, make_image: Make) -> None:
    engine = daemon.start()
    image = make_image()
    engine.load(image, SilentProgress())
    threading.Timer(2.0, daemon.kill).start()
    with pytest.raises(EnvbuildError) as caught:
        engine.run(image, RunCommand(argv=("sleep", "60"), network=False))
    assert caught.value.exit is Exit.ENGINE
    assert caught.value.id == "engine-stopped"


def test_an_engine_that_does_not_reach_our_loopback_gets_the_archive(
    daemon: Daemon, make_image: Make
) -> None:
    need("busybox")
    inside = f'busybox ip link add name {daemon.bridge} type bridge && exec "$@"'
    engine = daemon.start("unshare", "--net", "sh", "-c", inside, "sh")
    image = make_image()
    progress = OnFirstAdvance(lambda: None)
    engine.load(image, progress)
    assert progress.notes == [
        "the engine does not reach this machine's loopback: sending the image to `docker load`"
    ]
    assert daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}") == image.names[0]
    assert engine.has(image)


def test_a_corrupt_layer_is_refused_and_nothing_is_named(daemon: Daemon, make_image: Make) -> None:
    engine = daemon.start()
    image = make_image()
    blob = image.layout.path(image.layers[1].digest)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises(EnvbuildError) as caught:
        engine.load(image, SilentProgress())
    assert caught.value.exit in (Exit.ENGINE, Exit.VERIFY)
    assert daemon.docker("images", "--all", "--quiet") == ""


def test_a_missing_layer_is_found_before_the_engine_is_asked(daemon: Daemon, make_image: Make) -> None:
    engine = daemon.start()
    image = make_image()
    image.layout.path(image.layers[1].digest).unlink()
    with pytest.raises(EnvbuildError) as caught:
        engine.load(image, SilentProgress())
    assert caught.value.id == "image-not-in-store"


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(EnvbuildError) as caught:
        Docker.connect({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    assert (caught.value.id, caught.value.exit) == ("docker-not-running", Exit.ENGINE)
    assert "--engine sandbox" in caught.value.hint


def test_nobody_listens() -> None:
    with pytest.raises(EnvbuildError) as caught:
        Docker.connect({"DOCKER_HOST": "tcp://127.0.0.1:9"})
    assert caught.value.exit is Exit.ENGINE


def test_an_address_that_is_none() -> None:
    with pytest.raises(EnvbuildError) as caught:
        Docker.connect({"DOCKER_HOST": "nonsense://x"})
    assert caught.value.exit is Exit.ENGINE


def test_a_user_who_may_not_use_the_socket(daemon: Daemon) -> None:
    daemon.start()
    daemon.folder.chmod(0o755)
    code = (
        "from envbuild.engine.docker import Docker\n"
        "import docker, os, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from envbuild.errors import EnvbuildError\n"
        "try:\n    Docker.connect({'DOCKER_HOST': sys.argv[1]})\n"
        "except EnvbuildError as error:\n    print(error.id, int(error.exit), error.hint)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import docker, envbuild.engine.docker\nfrom envbuild.engine.docker import Docker\n" + code,
        ]
        + [daemon.environ["DOCKER_HOST"]],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("docker-permission 7 "), done.stdout + done.stderr
    assert "usermod -aG docker" in done.stdout
