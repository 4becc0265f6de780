"""kill -9 at any moment: the next run finishes, and trusts nothing that is wrong."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

from faulty_server import FaultyServer, stall

from envbuild.progress import SilentProgress
from envbuild.store import Http, Source, Store, Wanted, fetch

FORK = multiprocessing.get_context("fork")
FILES = {f"/{number}": random.Random(number).randbytes(150_000 + 997 * number) for number in range(12)}


def items(server: FaultyServer) -> list[Wanted]:
    return [
        Wanted(
            name=name,
            file=name,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            sources=(Source(url=server.url + name, label="index"),),
        )
        for name, data in FILES.items()
    ]


def build(root: Path, wanted: list[Wanted]) -> int:
    """A fetch and what builds do around it."""
    with Store.open(root) as store, store.scratch("build") as folder:
        came = fetch(store, wanted, http=Http(environ={}), jobs=3, progress=SilentProgress())
        for number, item in enumerate(wanted):
            data = store.artifact(item.sha256).read_bytes()
            (folder / "made").write_bytes(data[::-1])
            store.adopt(folder / "made")
            digest = store.layout.put(data[:1000])
            store.put_record("layer", str(number), {"digest": digest})
        return came


def assert_sound(root: Path) -> None:
    """Everything with a final name is right."""
    for folder in ("artifacts/sha256", "oci/blobs/sha256"):
        for path in (root / folder).glob("*"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_killed_builds_are_finished_by_the_next(tmp_path: Path, server: FaultyServer) -> None:
    server.files.update(FILES)
    server.etags = {name: f'"{name}"' for name in FILES}
    server.pause = 0.002
    wanted = items(server)
    chance = random.Random(11)
    for round_ in range(24):
        root = tmp_path / f"store-{round_ // 6}"
        children = [FORK.Process(target=build, args=(root, wanted)) for _ in range(1 + round_ % 2)]
        for child in children:
            child.start()
        time.sleep(chance.uniform(0.01, 0.25))
        for child in children:
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        assert_sound(root)
        if round_ % 6 == 5:
            build(root, wanted)
            assert_sound(root)
            with Store.open(root) as store:
                for item in wanted:
                    assert store.has(item.sha256, item.size)
                assert sorted(path.name for path in store.partial.iterdir()) == []
                assert sorted(path.name for path in (root / "tmp").iterdir()) == []
                for number in range(len(wanted)):
                    record = store.record("layer", str(number))
                    assert record is not None
                    assert store.layout.has(str(record["digest"]))


def _fetch_until_interrupted(root: Path, wanted: list[Wanted]) -> None:
    with Store.open(root) as store:
        try:
            fetch(store, wanted, http=Http(environ={}, read_timeout=600), jobs=3, progress=SilentProgress())
        except KeyboardInterrupt:
            os._exit(42)


def test_an_interrupt_ends_a_fetch_that_waits_and_keeps_what_came(
    tmp_path: Path, server: FaultyServer
) -> None:
    server.files.update(FILES)
    server.always = {name: stall(600) for name in FILES}
    wanted = items(server)
    child = FORK.Process(target=_fetch_until_interrupted, args=(tmp_path, wanted))
    child.start()
    assert child.pid is not None
    while sum(path.stat().st_size > 0 for path in (tmp_path / "partial").glob("*.part")) < 3:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    child.join(60)
    assert child.exitcode == 42
    server.always = {}
    assert build(tmp_path, wanted) < sum(map(len, FILES.values()))
