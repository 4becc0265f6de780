"""A publisher that is killed at any moment leaves nothing wrong behind, and the next run finishes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from dataclasses import replace

import pytest
from registry_proxy import Handler, RegistryProxy
from shop import Shop
from smallimage import REF

pytestmark = pytest.mark.network

KILLS = 54
IN_ONE_REPOSITORY = 6
TAG = "v1-candidate"


class Killer:
    """Kills the publisher at its ``at``-th request: before the registry hears of it, in the middle, or after."""

    def __init__(self, at: int, how: str) -> None:
        self.at = at
        self.how = how
        self.seen = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()

    def __call__(self, handler: Handler) -> None:
        with self._guard:
            self.seen += 1
            mine = self.seen == self.at
        if not mine:
            handler.forward()
            return
        if self.how == "before":
            self.kill()
            handler.hang_up()
        elif self.how == "inside":
            handler.forward(keep=handler.left // 2, answer=False)
            self.kill()
        else:
            handler.forward(answer=False)
            self.kill()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)


@pytest.fixture
def front(shop: Shop) -> RegistryProxy:
    return RegistryProxy(int(shop.host.rpartition(":")[2]))


def start(shop: Shop) -> subprocess.Popen[bytes]:
    argv = shop.cli.argv("publish", REF, shop.repo, "--allow-unverified", "--quiet")
    return subprocess.Popen(
        argv, env=dict(shop.cli.env), cwd=shop.cli.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def sound(shop: Shop) -> bool:
    """Whether the image is there with its tag. Whatever is there is whole, or the test ends."""
    tag = shop.ask(f"manifests/{TAG}")
    image = shop.ask(f"manifests/{shop.image.digest}")
    if isinstance(tag, dict):
        assert tag == image, "the tag means another image"
        assert len(shop.referrers()) == 4, "the tag was given before everything was attached"
    else:
        assert tag == 404
    if isinstance(image, dict):
        for blob in (image["config"], *image["layers"]):
            assert shop.size(f"blobs/{blob['digest']}") == blob["size"]
    for entry in shop.referrers():
        referrer = shop.ask(f"manifests/{entry['digest']}")
        assert referrer["subject"]["digest"] == shop.image.digest
        assert shop.size(f"blobs/{referrer['layers'][0]['digest']}") == referrer["layers"][0]["size"]
    return isinstance(tag, dict)


def test_killed_at_any_request(shop: Shop, front: RegistryProxy) -> None:
    through = replace(shop, host=front.host)
    first = replace(through, path=f"{shop.path}/whole")
    assert first.publish("--allow-unverified").code == 0
    requests = len(front.calls)
    assert sound(replace(shop, path=first.path))
    chance = random.Random(20261127)
    killed = finished = 0
    while killed < KILLS:
        path = f"{shop.path}/{killed}"
        there = replace(shop, path=path)
        for _ in range(IN_ONE_REPOSITORY):
            killer = Killer(chance.randint(1, requests), chance.choice(("before", "inside", "after")))
            front.faults[:] = [("", killer, True)]
            killer.process = start(replace(through, path=path))
            _, err = killer.process.communicate(timeout=120)
            if killer.process.returncode == 0:  # what was there already left it fewer requests than that
                assert sound(there)
                break
            assert killer.process.returncode == -signal.SIGKILL, err
            killed += 1
            time.sleep(0.05)  # the registry may still write what it got
            sound(there)
        front.faults.clear()
        done = replace(through, path=path).publish("--allow-unverified")
        assert done.code == 0, done.err
        assert sound(there)
        finished += 1
    assert finished >= KILLS // IN_ONE_REPOSITORY
    front.close()


def test_two_publishers_at_once(shop: Shop) -> None:
    """Both finish; the image is there once, and both keys' proofs are."""
    homes = []
    for name in ("ann", "bob"):
        home = shop.cli.folder / name
        home.mkdir()
        homes.append(shop.with_env(HOME=str(home)))
    running = [start(one) for one in homes]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert shop.tags() == [TAG]
    assert shop.ask(f"manifests/{TAG}") == shop.ask(f"manifests/{shop.image.digest}")
    kinds = [entry["artifactType"] for entry in shop.referrers()]
    assert kinds.count("application/vnd.dev.sigstore.bundle.v0.3+json") == 4
    assert kinds.count("application/vnd.envbuild.lock.v2+json") == 1


def test_interrupted_by_a_person(shop: Shop, front: RegistryProxy) -> None:
    """Ctrl-C ends it with one line, and running it again goes on."""
    slow = Killer(12, "after")
    slow.kill = lambda: os.kill(slow.process.pid, signal.SIGINT)  # type: ignore[method-assign,union-attr]
    front.faults[:] = [("", slow, True)]
    slow.process = start(replace(shop, host=front.host))
    _, err = slow.process.communicate(timeout=120)
    assert slow.process.returncode == 130
    assert b"Traceback" not in err
    assert b"running the same command again goes on from here" in err
    sound(shop)
    front.faults.clear()
    assert replace(shop, host=front.host).publish("--allow-unverified").code == 0
    assert sound(shop)
    front.close()
