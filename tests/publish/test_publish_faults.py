"""A bad line between envbuild and the registry: cuts, refusals for a while and for ever, changed bytes, lies."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from clirun import Done
from registry_proxy import (
    Fault,
    Handler,
    RegistryProxy,
    claim,
    cut,
    cut_upload,
    flip,
    lose_answer,
    lose_upload,
    status,
)
from registrywrites import BUNDLE, CYCLONEDX, LOCK, of_kind
from shop import Shop
from smallimage import REF, SmallWorld
from verdictmaker import own_key

from envbuild.store import Store

pytestmark = pytest.mark.network
TAG = "v1-candidate"
LIE = claim(docker_content_digest="sha256:" + "0" * 64)


def flip_sent_at(at: int) -> Fault:
    """One bit of the request's body, counted from its end where ``at`` is negative."""

    def change(piece: bytes) -> bytes:
        data = bytearray(piece)
        data[at] ^= 1
        return bytes(data)

    return lambda handler: handler.forward(change_sent=change)


def through(shop: Shop, front: RegistryProxy, *faults: tuple[str, Fault, bool]) -> Shop:
    """The same machine and repository behind the proxy, with these faults."""
    front.calls.clear()
    front.requests.clear()
    front.faults[:] = faults
    return replace(shop, host=front.host)


def sound(shop: Shop) -> bool:
    """Whether the image is there, whole, and with its tag."""
    image = shop.ask(f"manifests/{shop.image.digest}")
    blobs = (image["config"], *image["layers"])
    there = all(shop.size(f"blobs/{blob['digest']}") == blob["size"] for blob in blobs)
    return there and shop.ask(f"manifests/{TAG}") == image and len(shop.referrers()) == 4


@pytest.fixture
def far(shelf: Shop, tmp_path: Path) -> Shop:
    """Another machine, with an empty store."""
    return shelf.elsewhere(tmp_path / "store", tmp_path / "far")


def kept(store: Path) -> set[str]:
    """The digests of what a store's layout has, each of which must be right; and no file is half there."""
    found = set()
    for path in (store / "oci/blobs/sha256").glob("*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        found.add(f"sha256:{path.name}")
    return found


def names(store: Path) -> list[str]:
    """The names that images have in a store."""
    index = store / "oci/index.json"
    return [str(entry) for entry in json.loads(index.read_text())["manifests"]] if index.exists() else []


CUTS: dict[str, list[tuple[str, Fault, bool]]] = {
    "cuts": [
        (r"^HEAD .*blobs", cut(0), False),
        (r"^PATCH ", cut_upload(2_000), False),
        (r"^PATCH ", lose_upload(1_000), False),
        (r"^PUT .*manifests/sha256:", lose_answer, False),
    ],
    "answers": [
        (r"^HEAD .*manifests", lose_answer, False),
        (r"^PATCH ", lose_answer, False),
        (r"^PUT .*digest=", lose_answer, False),
        (rf"^PUT .*{TAG}", lose_answer, False),
    ],
    "refusals": [
        *((where, status(500), False) for where in (r"^POST", r"^PUT .*digest=", r"^PUT .*manifests")),
        *((where, status(429, Retry_After="1"), False) for where in (r"^HEAD", r"^PATCH")),
    ],
}


@pytest.mark.parametrize("which", list(CUTS))
def test_what_passes_while_it_publishes(shop: Shop, front: RegistryProxy, which: str) -> None:
    done = through(shop, front, *CUTS[which]).publish("--allow-unverified")
    assert done.code == 0, done.err
    assert front.faults == []
    assert sound(shop)


def test_a_large_layer_is_cut_on_its_way(shop: Shop, front: RegistryProxy) -> None:
    """The base has 36 MB; what is sent again is counted."""
    base = shop.image.layers[0]
    assert base.size > 30_000_000

    def cut_base(handler: Handler) -> None:
        if handler.left == base.size:
            handler.forward(keep=20_000_000, answer=False)
        else:
            front.faults.insert(0, (r"^PATCH ", cut_base, False))
            handler.forward()

    done = through(shop, front, (r"^PATCH ", cut_base, False)).publish("--allow-unverified")
    assert done.code == 0, done.err
    total = sum(layer.size for layer in shop.image.layers)
    assert total < done.value["bytes_sent"] <= total + base.size
    assert sound(shop)


FOR_EVER = {
    "layers": r"^PATCH ",
    "the manifest": r"^PUT .*manifests/sha256:",
    "proofs": r"^PUT .*manifests/sha256-",
    "the tag": rf"^PUT .*manifests/{TAG}",
}


def test_500_for_ever(shop: Shop, far: Shop, registry: str) -> None:
    """All at once: each waits some seconds before it gives up. Nothing gets a tag, and a pull names nothing."""
    port = int(registry.rpartition(":")[2])
    fronts = [RegistryProxy(port) for _ in range(len(FOR_EVER) + 1)]
    shops = [replace(shop, path=f"{shop.path}/{number}") for number in range(len(FOR_EVER))]

    def publish(number: int) -> Done:
        fault = (list(FOR_EVER.values())[number], status(500), True)
        return through(shops[number], fronts[number], fault).publish("--allow-unverified", "--quiet")

    def pull(_: int) -> Done:
        layer = far.image.layers[3].digest
        return through(far, fronts[-1], (f"^GET .*{layer}", status(500), True)).cli(
            "pull", f"{fronts[-1].host}/{far.path}:v1"
        )

    with ThreadPoolExecutor(max_workers=len(fronts)) as pool:
        done = list(pool.map(lambda n: (pull if n == len(FOR_EVER) else publish)(n), range(len(fronts))))
    for one in done:
        assert one.code == 4, one
        assert "answered 500" in one.err
        assert "\n hint: " in one.err
        assert one.err.count("error[") == 1
    assert [one.tags() for one in shops] == [[]] * len(FOR_EVER)
    assert names(far.store) == []
    assert far.image.layers[3].digest not in kept(far.store)
    for one in fronts:
        one.close()


@pytest.mark.parametrize(
    ("where", "at", "code"),
    [
        (r"^PATCH ", 100, 5),
        (r"^PATCH ", -1, 5),
        (r"^PUT .*manifests/sha256:", 0, 4),  # no JSON any more: the registry does not look at the digest
        (r"^PUT .*manifests/sha256:", 20, 5),
    ],
    ids=["layer", "end", "manifest", "annotation"],
)
def test_one_bit_changes_on_the_way_up(
    shop: Shop, front: RegistryProxy, where: str, at: int, code: int
) -> None:
    there = through(shop, front, (where, flip_sent_at(at), False))
    done = there.cli("publish", REF, there.repo, "--allow-unverified")
    assert done.code == code, done
    assert done.err.count("error[") == 1
    assert "\n hint: " in done.err
    assert shop.tags() == []
    assert shop.ask(f"manifests/{shop.image.digest}") == 404
    if at == 100:
        assert shop.publish("--allow-unverified").code == 0
        assert sound(shop)


@pytest.mark.parametrize(
    "where", [rf"^PUT .*manifests/{TAG}", r"^PUT .*manifests/sha256-"], ids=["tag", "index"]
)
def test_what_a_registry_cannot_know_to_be_changed_is_written_again(
    shop: Shop, front: RegistryProxy, where: str
) -> None:
    """Under a tag it takes whatever comes, and tells what came."""
    done = through(shop, front, (where, flip_sent_at(40), False)).publish("--allow-unverified")
    assert done.code == 0, done
    assert front.faults == []
    assert sound(shop)
    assert {entry["artifactType"] for entry in shop.referrers()} == {BUNDLE, CYCLONEDX, LOCK}


LIES = {
    "has": (r"^HEAD .*blobs", "answers with another blob"),
    "takes": (r"^PUT .*digest=", "another digest"),
    "manifest": (r"^PUT .*manifests/sha256:", "calls the manifest another digest"),
    "tag": (rf"^PUT .*manifests/{TAG}", "calls the manifest another digest"),
}


@pytest.mark.parametrize("which", list(LIES))
def test_a_registry_that_lies_to_the_publisher(shop: Shop, front: RegistryProxy, which: str) -> None:
    where, told = LIES[which]
    there = through(shop, front, (where, LIE, True))
    done = there.cli.fails(5, "registry-lies", "publish", REF, there.repo, "--allow-unverified")
    assert told in done.err
    assert "seen     sha256:0000" in done.err
    assert "do not use this registry's content" in done.err


def blob_of(shop: Shop, what: str) -> str:
    """What is asked for when this part of the image is read."""
    if what == "tag":
        return r"^GET .*manifests/v1$"
    if what == "manifest":
        return rf"^GET .*manifests/{shop.image.digest}"
    if what == "lock":
        [entry] = of_kind(shop, LOCK)
        return rf"^GET .*{shop.ask('manifests/' + entry['digest'])['layers'][0]['digest']}"
    return rf"^GET .*{(shop.image.config if what == 'config' else shop.image.layers[int(what)]).digest}"


@pytest.mark.parametrize("what", ["tag", "manifest", "config", "0", "5"])
def test_one_bit_changes_on_the_way_down(shelf: Shop, far: Shop, front: RegistryProxy, what: str) -> None:
    """Nothing that is wrong is kept, and nothing is named."""
    there = through(far, front, (blob_of(shelf, what), flip(20), True))
    name = f"{there.repo}:v1" if what == "tag" else there.pinned
    done = there.cli.fails(5, "registry-lies" if what == "tag" else "wrong-hash", "pull", name)
    assert "expected " in done.err
    assert "check" in done.err
    assert "envbuild lock" not in done.err
    assert names(far.store) == []
    wrong = {
        "config": shelf.image.config.digest,
        "0": shelf.image.layers[0].digest,
        "5": shelf.image.layers[5].digest,
    }
    assert wrong.get(what, shelf.image.digest) not in kept(far.store)
    assert not any((far.store / "partial").glob(f"{wrong.get(what, 'x').removeprefix('sha256:')}*"))


def test_lies_about_what_is_read(shelf: Shop, far: Shop, front: RegistryProxy) -> None:
    there = through(far, front, (r"^GET .*manifests", LIE, True))
    for name in (f"{there.repo}:v1", there.pinned):
        there.cli.fails(5, "registry-lies", "pull", name)
        there.cli.fails(5, "registry-lies", "verify", name)
    assert kept(far.store) == set()


def test_one_bit_of_a_proof_changes_on_the_way_down(shelf: Shop, far: Shop, front: RegistryProxy) -> None:
    """Who asks for proofs is refused; a layer needs none."""
    key = shelf.pem(own_key(Path(shelf.cli.env["HOME"])))
    there = through(far, front, (blob_of(shelf, "lock"), flip(20), True))
    there.cli.fails(5, "wrong-hash", "verify", f"{there.repo}:v1", "--key", key)
    there.cli.fails(5, "wrong-hash", "promote", there.pinned, "--key", key)
    assert there.cli("pull", there.pinned, "--json").value["digest"] == shelf.image.digest


def test_what_passes_while_it_pulls(shelf: Shop, far: Shop, front: RegistryProxy) -> None:
    base, other = shelf.image.layers[0].digest, shelf.image.layers[6].digest
    there = through(
        far,
        front,
        (r"^GET .*manifests", status(429, Retry_After="1"), False),
        (r"^GET .*manifests", cut(100), False),
        (rf"^GET .*{shelf.image.config.digest}", status(503), False),
        (rf"^GET .*{base}", cut(9_000_000), False),
        (rf"^GET .*{base}", cut(9_000_000), False),
        (rf"^GET .*{other}", status(500), False),
        (rf"^GET .*{other}", status(429, Retry_After="1"), False),
    )
    done = there.cli("pull", f"{there.repo}:v1", "--json")
    assert done.code == 0, done.err
    assert front.faults == []
    assert done.value["bytes_fetched"] == shelf.image.config.size + sum(x.size for x in shelf.image.layers)
    asked = [headers.get("range") for path, headers in front.requests if path.endswith(base)]
    assert [value for value in asked if value] == ["bytes=9000000-", "bytes=18000000-"]


def test_a_pull_that_was_killed_goes_on(
    shelf: Shop, far: Shop, front: RegistryProxy, small: SmallWorld
) -> None:
    """Killed in the middle of the largest layer; the next one fetches the rest, and the image runs."""
    base = shelf.image.layers[0]
    running: list[subprocess.Popen[bytes]] = []
    half = base.size // 2

    def kill(handler: Handler) -> None:
        running[0].send_signal(signal.SIGKILL)
        handler.hang_up()

    there = through(
        far, front, (rf"^GET .*{base.digest}", cut(half), False), (rf"^GET .*{base.digest}", kill, False)
    )
    running.append(
        subprocess.Popen(
            there.cli.argv("pull", there.pinned, "--quiet"), env=dict(there.cli.env), cwd=there.cli.folder
        )
    )
    assert running[0].wait(timeout=120) == -signal.SIGKILL
    assert front.faults == []
    assert names(far.store) == []
    assert base.digest not in kept(far.store)
    done = there.cli("pull", there.pinned, "--json")
    assert done.code == 0, done.err
    whole = shelf.image.config.size + sum(layer.size for layer in shelf.image.layers)
    assert base.size - half <= done.value["bytes_fetched"] <= whole - half
    asked = [headers.get("range") for path, headers in front.requests if path.endswith(base.digest)]
    assert asked[-1] == f"bytes={half}-"
    ran = there.cli("run", "--engine", "sandbox", there.pinned, "--", "demo-version")
    assert (ran.code, ran.out.strip()) == (0, "1.0"), ran.err
    small.remove_roots(Store.open(far.store))
