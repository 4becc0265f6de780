"""kill -9, Ctrl-C and a server that goes away, at any moment: the next run finishes, and nothing stays half-made."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path

from envworld import World, contents, said
from faulty_server import stall

from envbuild.environment.prefix import UNFINISHED


def test_killed_runs_are_finished_by_the_next(world: World) -> None:
    """At ten moments, from the first download to the last step. What a killed run leaves says that it is unfinished."""
    whole = world.create(prefix="env", store="elsewhere").prefix
    expected = contents(whole)
    whole.rename(world.folder / "expected")
    world.server.pause = 0.001
    started = time.monotonic()
    assert world.start(store="timed").wait() == 0
    lasts = time.monotonic() - started
    (world.folder / "env").rename(world.folder / "timed-env")
    chance = random.Random(7)
    moments = set()
    for number in range(10):
        store = f"store-{number // 4}"
        process = world.start(store=store)
        time.sleep(lasts * (0.15 + 0.085 * number) * chance.uniform(0.9, 1.1))
        process.kill()
        process.communicate()
        prefix = world.folder / "env"
        moments.add("made" if prefix.exists() else "not yet")
        finished = prefix.exists() and not (prefix / UNFINISHED).exists()
        if prefix.exists() and not finished and number % 3:
            continue  # the next run finds what two killed runs left
        if finished:
            assert contents(prefix) == expected
        else:
            again = world.start(store=store)
            _, err = again.communicate()
            assert again.returncode == 0, err
            assert contents(prefix) == expected
        prefix.rename(world.folder / f"done-{number}")
    assert moments == {"made", "not yet"}


def test_nothing_works_on_in_a_prefix_after_a_kill(world: World) -> None:
    """The process that links ends with the one that started it."""
    process = world.start()
    work = world.folder / "env" / UNFINISHED / "packages"
    while not work.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while _working_in(world.folder / "env") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _working_in(world.folder / "env") == []


def test_an_interrupt_while_linking_leaves_nothing(world: World) -> None:
    process = world.start()
    while not (world.folder / "env" / UNFINISHED / "packages").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (world.folder / "env").exists()
    assert _working_in(world.folder) == []
    world.server.requests.clear()
    world.create()
    assert world.server.requests == []


def test_a_server_that_goes_away_and_comes_back(world: World) -> None:
    """What came before is kept: the second run asks only for the package that was cut."""
    python = next(package for package in world.lock.packages if package.name == "python")
    path = f"/small/linux-64/{python.file}"
    world.server.always[path] = stall(600)
    process = world.start()
    part = world.folder / "store/partial"
    while not (
        part.is_dir() and any(p.stat().st_size >= python.size // 2 for p in part.glob(f"{python.sha256}*"))
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    others = {package.sha256 for package in world.lock.packages} - {python.sha256}
    while not others <= {p.name for p in (world.folder / "store/artifacts/sha256").iterdir()}:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not (world.folder / "env").exists()
    world.server.always.clear()
    world.server.requests.clear()
    made = world.create()
    assert world.fetched() == [python.file]
    assert world.server.ranges(path) == [f"bytes={python.size // 2}-"]
    assert said(made.prefix / "bin/greet") == "hello\n"


def test_two_at_once_for_one_prefix(world: World) -> None:
    """One makes it; the other waits, and is then refused."""
    world.create(prefix="warm")
    first, second = world.start(), world.start()
    ends = []
    for process in (first, second):
        _, err = process.communicate()
        ends.append((process.returncode, "prefix-exists" in err or "already" in err))
    assert sorted(code != 0 for code, _ in ends) == [False, True]
    assert [told for code, told in ends if code] == [True]
    assert said(world.folder / "env/bin/greet") == "hello\n"


def test_two_prefixes_at_once(world: World) -> None:
    """They share the store: each package is fetched once."""
    threads = [threading.Thread(target=world.create, kwargs={"prefix": f"env-{n}"}) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(world.fetched()) == sorted(package.file for package in world.lock.packages)
    for number in range(2):
        assert said(world.folder / f"env-{number}/bin/greet") == "hello\n"


def _working_in(folder: Path) -> list[str]:
    """Processes of the linking step that have a file below the folder open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            names = [str(fd.readlink()) for fd in (process / "fd").iterdir()]
        except OSError:
            continue
        found += [f"{process.name}: {name}" for name in names if name.startswith(str(folder))]
    return found
