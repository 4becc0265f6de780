"""A real reader of eStargz: podman fetches of a changed layer what it does not have (storage.conf, pull_options)."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from countingproxy import CountingProxy, counting_proxy
from wheelmaker import Entry, wheel_entries, write_wheel, zip_bytes

from envbuild.layers.estargz import TRACES
from envbuild.layers.files import FileEntry, whiteout, write_files_layer
from envbuild.layers.format import MTIME, SITE
from envbuild.layers.splice import write_wheel_layer
from envbuild.layers.wheel import plan_wheel
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress

FILE = "demo-1.0-py3-none-any.whl"
RUN = RunConfig(env={}, entrypoint=(), cmd=("/none",), working_dir="/", user="root", labels={})
STORAGE = """\
[storage]
driver = "overlay"
[storage.options]
pull_options = {enable_partial_images = "true", use_hard_links = "false", ostree_repos = ""}
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="podman's overlay driver is used as root"),
    pytest.mark.needs("podman", "skopeo", "docker-registry"),
]


def contents(version: int) -> dict[str, bytes]:
    """A wheel of 7.5 MB: 120 files, of which one differs from version to version."""
    noise = random.Random(7)
    files = {f"demo/part{number}.bin": noise.randbytes(62_000) for number in range(120)}
    files["demo/part60.bin"] = random.Random(version).randbytes(62_000)
    files["demo/empty.py"] = b""
    files["demo/__init__.py"] = b"VERSION = %d\n" % version
    return files


def image(folder: Path, layout: Layout, version: int) -> Image:
    """A wheel layer, and above it the layer that hides what the form of the wheel layer brings."""
    entries = wheel_entries([Entry(path, content) for path, content in contents(version).items()])
    wheel = write_wheel(folder / str(version), zip_bytes(entries), FILE)
    plan = plan_wheel(wheel, file=FILE, sha256="0" * 64)
    layers = (
        write_wheel_layer("demo", [plan], layout, SilentProgress()),
        write_files_layer(
            "programs", [FileEntry(path="etc/x", content=b"x"), *map(whiteout, TRACES)], layout
        ),
    )
    made = Image(layers=layers, run=RUN, created="2026-01-01T00:00:00Z")
    layout.put(made.config_bytes)
    layout.put(made.manifest_bytes)
    layout.tag(f"demo:v{version}", made.manifest)
    return made


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[CountingProxy]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "log": {"level": "error", "accesslog": {"disabled": True}},
    }
    (tmp_path / "config.yml").write_text(json.dumps(config))
    server = subprocess.Popen(
        ["docker-registry", "serve", tmp_path / "config.yml"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        with counting_proxy(port) as counting:
            yield counting
    finally:
        server.terminate()
        server.wait()


class Podman:
    """Podman with a storage of its own, which pulls parts of layers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "storage.conf").write_text(
            STORAGE.replace("[storage]\n", f'[storage]\ngraphroot = "{folder}/g"\nrunroot = "{folder}/r"\n')
        )
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def forget_partial_pulls(self) -> None:
        """Pull whole layers, as podman does by default."""
        path = self._folder / "storage.conf"
        path.write_text(
            path.read_text().replace('enable_partial_images = "true"', 'enable_partial_images = "false"')
        )

    def __call__(self, *arguments: str) -> str:
        env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(self._folder / "storage.conf")}
        done = subprocess.run(["podman", *arguments], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pull(self, reference: str) -> str:
        """The pulled image's id."""
        policy = str(self._folder / "policy.json")
        return self("pull", "-q", "--tls-verify=false", "--signature-policy", policy, reference)


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Podman]:
    folder = tmp_path / "p"
    folder.mkdir()
    found = Podman(folder)
    yield found
    found("image", "umount", "--all", "--force")
    found("rmi", "--all", "--force")


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def push(layout: Layout, version: int, proxy: CountingProxy) -> str:
    reference = f"127.0.0.1:{proxy.upstream}/team/demo:v{version}"
    subprocess.run(
        ["skopeo", "copy", "-q", "--dest-tls-verify=false", "--preserve-digests",
         f"oci:{layout.root}:demo:v{version}", f"docker://{reference}"],
        check=True,
    )  # fmt: skip
    return reference.replace(str(proxy.upstream), str(proxy.server_port))


def lazy(made: Image) -> Layer:
    return made.layers[0]


def test_of_a_changed_layer_podman_fetches_what_it_lacks(
    tmp_path: Path, proxy: CountingProxy, podman: Podman
) -> None:
    layout = Layout.create(tmp_path / "oci")
    first, second = image(tmp_path, layout, 1), image(tmp_path, layout, 2)
    assert lazy(first).size > 7_400_000
    podman.pull(push(layout, 1, proxy))
    id = podman.pull(push(layout, 2, proxy))
    fetched = proxy.sent[lazy(second).digest]
    changed = sum(len(content) for path, content in contents(2).items() if contents(1)[path] != content)
    assert changed < fetched < 200_000, "what changed, RECORD, and the table of contents"
    look(Path(podman("image", "mount", id)))


def test_podman_that_pulls_whole_layers_sees_the_same(
    tmp_path: Path, proxy: CountingProxy, podman: Podman
) -> None:
    podman.forget_partial_pulls()
    layout = Layout.create(tmp_path / "oci")
    second = image(tmp_path, layout, 2)
    id = podman.pull(push(layout, 2, proxy))
    assert proxy.sent[lazy(second).digest] >= lazy(second).size
    look(Path(podman("image", "mount", id)))


def look(root: Path) -> None:
    """The second version's files are there, with the constant time that byte code is compiled against."""
    found = files_of(root)
    assert {path: content for path, content in found.items() if path.startswith(f"{SITE}/demo/")} == {
        f"{SITE}/{path}": content for path, content in contents(2).items()
    }
    assert {path for path in found if "/" not in path} == set()
    assert {(root / SITE / path).stat().st_mtime for path in contents(2)} == {MTIME}
