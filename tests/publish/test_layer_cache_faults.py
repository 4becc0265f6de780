"""A cache of layers that refuses, lacks, lies or says nonsense: the image is built all the same, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from clirun import Done
from registry_proxy import RegistryProxy, claim, flip, lose_answer, refuse, status
from registry_server import HTPASSWD, start_registry
from registrywrites import put_manifest
from shop import Shop
from smallimage import REF, SmallWorld

from envbuild.lock import lock_bytes

pytestmark = pytest.mark.network
LAYER = "python-5"
"""The layer of the wheel ``other``, which takes no sandbox to make."""


@dataclass(frozen=True)
class Runner:
    """A machine whose store lacks one layer, and a lock that was never built."""

    shop: Shop
    digest: str

    def build(self, cache: str, **env: str) -> Done:
        """Build with this cache, from a lock that names no digests."""
        path = self.shop.recipes / REF.replace(":", "/") / "lock.json"
        path.write_bytes(lock_bytes(replace(self.shop.lock, image=None)))
        return self.shop.cli("image", REF, "--no-load", "--json", env={"ENVBUILD_LAYER_CACHE": cache, **env})

    def made(self, done: Done) -> list[str]:
        """The layers that were made here, of an image that came out as it must."""
        assert (done.code, done.value["digest"]) == (0, self.shop.image.digest), done.err
        return [layer["name"] for layer in done.value["layers"] if layer["made"]]

    def forget(self) -> None:
        """Let the store lack the layer."""
        for record in (self.shop.store / "cache/layer").glob("*.json"):
            if json.loads(record.read_text())["digest"] == self.digest:
                record.unlink()
        (self.shop.store / "oci/blobs/sha256" / self.digest.removeprefix("sha256:")).unlink(missing_ok=True)

    @property
    def has(self) -> bool:
        return (self.shop.store / "oci/blobs/sha256" / self.digest.removeprefix("sha256:")).exists()


@pytest.fixture
def runner(shop: Shop, small: SmallWorld, tmp_path: Path) -> Runner:
    """A store of links to the small image's files; what is written is written anew, so these stay as they are."""
    store = tmp_path / "runner"
    ignore = shutil.ignore_patterns("roots", "locks", "tmp")
    shutil.copytree(small.store.root, store, copy_function=os.link, ignore=ignore)
    [layer] = [layer for layer in shop.image.layers if layer.name == LAYER]
    found = Runner(shop=shop.with_env(ENVBUILD_STORE=str(store)), digest=layer.digest)
    found.forget()
    return found


def test_a_cache_that_is_read_only_or_wants_a_password(runner: Runner, tmp_path: Path) -> None:
    """Told once, and the layer is made here."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    for number, options in enumerate(({"read_only": True}, {"htpasswd": tmp_path / "htpasswd"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        process, port = start_registry(folder, **options)  # type: ignore[arg-type]  # one of them
        try:
            done = runner.build(f"127.0.0.1:{port}/team/cache")
        finally:
            process.terminate()
            process.wait()
        assert runner.made(done) == [LAYER]
        assert done.err.count(f"without the layers of 127.0.0.1:{port}/team/cache: ") == 1
        runner.forget()


def test_a_cache_that_is_full(runner: Runner, front: RegistryProxy) -> None:
    front.faults[:] = [(r"^PATCH ", refuse(500, "UNKNOWN", "no space left on device"), True)]
    done = runner.build(f"{front.host}/{runner.shop.path}")
    assert runner.made(done) == [LAYER]
    assert "it has no room left" in done.err
    assert runner.shop.tags() == []


@pytest.fixture
def filled(runner: Runner, front: RegistryProxy) -> str:
    """A cache that has the layer, behind the proxy; the runner lacks it again."""
    cache = f"{front.host}/{runner.shop.path}"
    assert runner.made(runner.build(cache)) == [LAYER]
    [tag] = runner.shop.tags()
    assert tag.startswith("layer-")
    runner.forget()
    assert runner.made(runner.build(cache)) == []
    runner.forget()
    return cache


def test_what_passes_while_a_cache_is_asked(runner: Runner, front: RegistryProxy, filled: str) -> None:
    front.faults[:] = [
        (r"^HEAD .*manifests", status(503), False),
        (r"^GET .*manifests", status(429, Retry_After="0"), False),
        (rf"^GET .*{runner.digest}", lose_answer, False),
    ]
    assert runner.made(runner.build(filled)) == []
    assert front.faults == []
    assert runner.has


@pytest.mark.parametrize("what", ["bytes", "digest"])
def test_a_cache_that_gives_something_else(
    runner: Runner, front: RegistryProxy, filled: str, what: str
) -> None:
    """Nobody would know what else is wrong there: no image, and nothing of it is kept."""
    if what == "bytes":
        front.faults[:] = [(rf"^GET .*{runner.digest}", flip(100), True)]
    else:
        front.faults[:] = [(r"^GET .*manifests", claim(docker_content_digest="sha256:" + "0" * 64), True)]
    done = runner.build(filled)
    assert done.code == 5, done
    assert done.value["error"]["id"] == ("wrong-hash" if what == "bytes" else "registry-lies")
    assert "envbuild lock" not in done.value["error"]["hint"]
    assert not runner.has


@pytest.mark.parametrize("what", ["empty", "annotation", "descriptor", "another-kind", "size"])
def test_a_tag_of_the_cache_that_says_nonsense(runner: Runner, filled: str, what: str) -> None:
    """It counts as nothing, and is written anew."""
    shop = runner.shop
    [tag] = shop.tags()
    good = shop.ask(f"manifests/{tag}")
    bad = json.loads(json.dumps(good))
    if what == "empty":
        bad["layers"] = []
    elif what == "annotation":
        bad["annotations"] = dict.fromkeys(bad["annotations"], "{")
    elif what == "descriptor":
        bad["annotations"] = {
            name: text.replace(runner.digest, shop.image.layers[0].digest)
            for name, text in bad["annotations"].items()
        }
    elif what == "another-kind":
        bad["artifactType"] = "application/vnd.example.thing"
    else:
        bad["layers"][0]["size"] += 1
    put_manifest(shop, tag, bad)
    done = runner.build(filled)
    if what == "size":  # the registry has it with another one
        assert (done.code, done.value["error"]["id"]) == (5, "registry-lies")
        return
    assert runner.made(done) == [LAYER]
    assert shop.ask(f"manifests/{tag}") == good
