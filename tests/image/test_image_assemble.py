"""Assembling a small real image: what is made when, that its bytes depend on the lock only, and that it runs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from smallimage import SmallWorld, wheel_artifact

from envbuild.engine import ImageRef, RunCommand, detect
from envbuild.engine.model import Streams
from envbuild.errors import EnvbuildError, Exit
from envbuild.image.assemble import assemble
from envbuild.image.base import pull_base
from envbuild.image.locked import locked_image
from envbuild.image.verify import verify
from envbuild.layers.format import MTIME
from envbuild.lock import Lock, lock_bytes
from envbuild.oci.image import Image
from envbuild.progress import SilentProgress
from envbuild.store import Http, Store

pytestmark = [pytest.mark.network, pytest.mark.timeout(900)]


def layers_of(image: Image) -> dict[str, str]:
    return {layer.name: layer.digest for layer in image.layers}


def built_lock(small: SmallWorld) -> Lock:
    return replace(small.lock, image=small.built.lock)


def test_every_blob_is_in_the_layout_and_is_what_it_is_called(small: SmallWorld) -> None:
    layout, image = small.store.layout, small.built.image
    config = json.loads(layout.path(image.config.digest).read_bytes())
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in image.layers]
    manifest = json.loads(layout.path(image.digest).read_bytes())
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.digest for layer in image.layers]
    for layer in image.layers:
        blob = layout.path(layer.digest).read_bytes()
        assert len(blob) == layer.size
        assert "sha256:" + hashlib.sha256(blob).hexdigest() == layer.digest
        assert "sha256:" + hashlib.sha256(gzip.decompress(blob)).hexdigest() == layer.diff_id


def test_every_file_has_the_constant_time(small: SmallWorld) -> None:
    seen = 0
    for layer in small.built.image.layers:
        blob = small.store.layout.path(layer.digest)
        with gzip.open(blob) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                assert entry.mtime == MTIME, f"{layer.name}: {entry.name}"
                seen += 1
    assert seen > 1000


def test_assembling_again_makes_nothing(small: SmallWorld) -> None:
    again = assemble(small.lock, small.workshop())
    assert again.image == small.built.image
    assert (again.made, again.bytes_fetched) == ((), 0)


def test_a_built_lock_needs_no_artifacts(small: SmallWorld) -> None:
    lock = built_lock(small)
    assert locked_image(lock, small.store) == small.built.image
    again = assemble(lock, small.workshop())
    assert again.image == small.built.image
    assert again.made == ()


def test_another_wheel_makes_its_layers_and_the_config_only(small: SmallWorld) -> None:
    other = wheel_artifact("demo", "1.0", "\n\nMORE = 1\n", store=small.store)
    python = tuple(other if item.name == "demo" else item for item in small.lock.python)
    built = assemble(replace(small.lock, python=python), small.workshop())
    before, after = layers_of(small.built.image), layers_of(built.image)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"python-3", "python-3-bytecode"}
    assert set(built.made) == changed
    assert built.image.config.digest != small.built.image.config.digest


def test_a_layer_that_was_deleted_is_made_again_with_the_same_digest(small: SmallWorld) -> None:
    lock = built_lock(small)
    [torch] = [layer for layer in small.built.image.layers if layer.name == "torch"]
    small.store.layout.path(torch.digest).unlink()
    again = assemble(lock, small.workshop())
    assert again.made == ("torch",)
    assert again.image == small.built.image


def test_an_image_that_is_not_the_lock_s_is_refused(small: SmallWorld) -> None:
    """The lock is consistent in itself, but its demo layer is not what demo's wheel gives."""
    right = small.built.image
    layers = tuple(
        replace(layer, diff_id="sha256:" + "0" * 64) if layer.name == "python-3" else layer
        for layer in right.layers
    )
    wrong = replace(right, layers=layers)
    image = replace(small.built.lock, digest=wrong.digest, config=wrong.config.digest, layers=layers)
    with pytest.raises(EnvbuildError) as caught:
        assemble(replace(small.lock, image=image), small.workshop())
    assert (caught.value.id, caught.value.exit) == ("digest-differs", Exit.VERIFY)
    assert right.digest in caught.value.message
    assert wrong.digest in caught.value.message
    assert caught.value.message.endswith("layers that differ: python-3")


def test_two_wheels_with_one_path_and_other_content_are_refused(small: SmallWorld, tmp_path: Path) -> None:
    """Also where the first one's layer is in the store already."""
    rival = wheel_artifact("demo", "9", "\n\nRIVAL = 1\n", store=small.store)
    lock = replace(small.lock, python=(*small.lock.python, replace(rival, name="rival")))
    with pytest.raises(EnvbuildError) as caught:
        assemble(lock, small.workshop())
    assert caught.value.exit in {Exit.VERIFY, Exit.INPUT}
    assert "demo" in caught.value.message


def test_a_second_build_from_nothing_gives_the_same_image(small: SmallWorld) -> None:
    found = verify(built_lock(small), small.built.image, small.workshop())
    assert found.differences == ()
    assert found.holds
    assert {"umask", "TZ", "jobs", "folder"} <= set(found.conditions)
    assert list((small.store.root / "tmp").glob("scratch-*")) == []


def test_verifying_names_the_paths_that_differ(small: SmallWorld) -> None:
    """The image was made of another demo than the lock's."""
    other = wheel_artifact("demo", "1.0", "\n\nMORE = 1\n", store=small.store)
    python = tuple(other if item.name == "demo" else item for item in small.lock.python)
    foreign = assemble(replace(small.lock, python=python), small.workshop()).image
    found = verify(small.lock, foreign, small.workshop())
    assert not found.holds
    site = "opt/venv/lib/python3.11/site-packages"
    assert f"python-3: {site}/demo.py: content" in found.differences
    assert f"python-3: {site}/demo-1.0.dist-info/RECORD: content" in found.differences
    assert "config: differs" in found.differences
    assert not [line for line in found.differences if line.startswith(("base:", "torch", "python-5"))]


OTHER = """
import sys
from pathlib import Path
from envbuild.image.assemble import assemble
from envbuild.image.workshop import Workshop
from envbuild.lock import read_lock
from envbuild.progress import SilentProgress
from envbuild.sandbox import Sandbox
from envbuild.store import Store
work = Path(sys.argv[1])
store = Store.open(work / "store")
for path in (work / "inputs").iterdir():
    store.adopt(path)
def fetch(artifacts):
    raise AssertionError(artifacts)
workshop = Workshop(store=store, progress=SilentProgress(), jobs=1, fetch=fetch, sandbox=Sandbox.detect)
print(assemble(read_lock(work / "lock.json"), workshop).image.digest)
for root in store.roots.iterdir():
    Sandbox.detect().remove(root)
"""


def test_another_user_folder_umask_zone_locale_and_number_of_jobs_give_the_same_image(
    small: SmallWorld, unprivileged
) -> None:
    work = unprivileged.home / "image-test"
    shutil.rmtree(work, ignore_errors=True)
    (work / "inputs").mkdir(parents=True)
    for item in (*small.lock.debian, *small.lock.python):
        shutil.copy(small.store.artifact(item.sha256), work / "inputs")
    (work / "lock.json").write_bytes(lock_bytes(small.lock))
    for path in (work, work / "inputs", *(work / "inputs").iterdir()):
        shutil.chown(path, unprivileged.name, unprivileged.name)
    env = {"TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}
    try:
        done = unprivileged.run(OTHER, str(work), env=env, umask=0o077)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == small.built.image.digest
    finally:
        shutil.rmtree(work)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
        "log": {"level": "error", "accesslog": {"disabled": True}},
    }
    (tmp_path / "config.yml").write_text(json.dumps(config))
    process = subprocess.Popen(
        ["docker-registry", "serve", tmp_path / "config.yml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(address.split(":")).close()
                break
            except OSError:
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_an_image_of_a_registry_as_the_base(small: SmallWorld, registry: str, tmp_path: Path) -> None:
    base = small.built.image.layers[0]
    run = replace(small.built.image.run, env={"PATH": "/usr/bin", "FROM_BASE": "1"}, labels={})
    pushed = replace(small.built.image, layers=(base,), run=run, annotations={})
    small.store.layout.put(pushed.config_bytes)
    small.store.layout.put(pushed.manifest_bytes)
    small.store.layout.tag("pushed:base", pushed.manifest)
    subprocess.run(
        ["skopeo", "copy", "-q", "--dest-tls-verify=false", "--preserve-digests",
         f"oci:{small.store.layout.root}:pushed:base", f"docker://{registry}/team/base:1"],
        check=True,
    )  # fmt: skip
    small.store.layout.untag("pushed:base")
    reference = f"{registry}/team/base@{pushed.digest}"
    store = Store.open(tmp_path / "store")
    for item in small.lock.python:
        os.link(small.store.artifact(item.sha256), store.artifact(item.sha256))
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    try:
        found = pull_base(
            reference, store=store, sandbox=small.sandbox, http=Http(environ=environ), environ=environ, jobs=2,
            progress=SilentProgress(),
        )  # fmt: skip
        assert found.has_tini
        built = assemble(built_lock(small), small.workshop(store), base=found)
    finally:
        small.remove_roots(store)
    image = built.image
    assert [layer.diff_id for layer in image.layers] == [layer.diff_id for layer in small.built.image.layers]
    assert image.run.env["FROM_BASE"] == "1"
    assert image.run.env["PATH"].startswith("/opt/venv/bin:")
    assert image.run.labels["org.opencontainers.image.base.name"] == reference
    assert image.run.labels["org.opencontainers.image.base.digest"] == pushed.digest
    assert "base" not in built.made


SCRIPT = "import demo, other, torch, sys; print(demo.VERSION, other.VERSION, torch.VERSION, sys.prefix)"


def run_in(name: str, small: SmallWorld, argv: tuple[str, ...], out: Path, image: ImageRef) -> str:
    [engine] = detect(name, small.store, os.environ, jobs=2)
    engine.load(image, SilentProgress())
    with out.open("w+b") as stream:
        command = RunCommand(argv=argv, network=False, timeout=120)
        code = engine.run(image, command, Streams(stdout=stream.fileno(), stderr=stream.fileno()))
        stream.seek(0)
        text = stream.read().decode()
    assert code == 0, text
    return text


@pytest.fixture
def image(small: SmallWorld) -> ImageRef:
    digest = small.built.image.digest
    return ImageRef.read(small.store.layout, digest, ("envbuild-test-small:v1-candidate",))


@pytest.mark.parametrize("engine", ["sandbox", pytest.param("docker", marks=pytest.mark.docker)])
def test_its_packages_are_imported_and_its_programs_run(
    small: SmallWorld, image: ImageRef, tmp_path: Path, engine: str
) -> None:
    if engine == "docker" and os.environ.get("ENVBUILD_TEST_NO_DOCKER") == "1":
        pytest.skip("ENVBUILD_TEST_NO_DOCKER=1: no Docker engine on this machine, by the caller's word")
    script = f"python -c '{SCRIPT}'; demo-version; pwd; python -c 'import demo; print(demo.__cached__)'"
    script += "; ls -l --time-style=+%s $(python -c 'import demo; print(demo.__cached__)') | cut -d' ' -f6"
    try:
        text = run_in(engine, small, ("sh", "-ec", script), tmp_path / "out", image)
    finally:
        if engine == "docker":
            subprocess.run(
                ["docker", "rmi", "-f", image.names[0], image.config], capture_output=True, check=False
            )
    cached = "/opt/venv/lib/python3.11/site-packages/__pycache__/demo.cpython-311.pyc"
    # The byte code's own time is the layer's: it was not compiled anew.
    assert text.splitlines() == ["1.0 2.0 2.7.1 /opt/venv", "1.0", "/workspace", cached, str(MTIME)]
