"""The store's folder: what it keeps, what it refuses, and what a crash leaves."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import SilentProgress
from envbuild.store import Store

FORK = multiprocessing.get_context("fork")


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.said = threading.Event()

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.said.set()


def in_child(act: Callable[[], object], *, user: int | None = None) -> object:
    """What ``act`` returns in a child process (of another user), or its error as a dict."""
    ours, theirs = FORK.Pipe()

    def run() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        try:
            theirs.send(act())
        except EnvbuildError as error:
            theirs.send({**error.to_dict(), "exit": error.exit})

    child = FORK.Process(target=run)
    child.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        child.join()


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users can enter."""
    folder = Path(tempfile.mkdtemp(prefix="envbuild-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("acting as another user and mounting need root")


def test_opening_makes_it_and_opening_again_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    Store.open(root).close()
    before = sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))
    Store.open(root).close()
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == before
    for name in (
        "artifacts/sha256",
        "partial",
        "oci/index.json",
        "cache",
        "roots",
        "tmp",
        "locks",
        "store.json",
    ):
        assert name in before


def test_many_open_a_new_one_at_once(tmp_path: Path) -> None:
    def act() -> None:
        with Store.open(tmp_path / "store") as store:
            store.put_record("k", str(os.getpid()), {"a": 1})

    children = [FORK.Process(target=act) for _ in range(8)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 8
    assert len(list((tmp_path / "store" / "cache" / "k").iterdir())) == 8


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(EnvbuildError) as caught:
        Store.open(tmp_path)
    assert (caught.value.id, caught.value.exit) == ("store-foreign", Exit.USAGE)
    assert "thesis.tex" in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"], "nothing was made in it"


@pytest.mark.parametrize("content", ['{"format": 2}', "{}", "[]", "", "\x00"])
def test_another_format_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(EnvbuildError) as caught:
        Store.open(tmp_path)
    assert (caught.value.id, caught.value.exit) == ("store-format", Exit.USAGE)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EnvbuildError) as caught:
            Store.open(root)
        assert (caught.value.id, caught.value.exit) == ("store-unusable", Exit.USAGE)


@pytest.mark.usefixtures("needs_root")
def test_no_permission_is_one_clear_error(reachable: Path) -> None:
    closed = reachable / "closed"
    closed.mkdir(mode=0o755)
    error = in_child(lambda: Store.open(closed / "store"), user=65534)
    assert isinstance(error, dict)
    assert (error["id"], error["exit"]) == ("store-permission", Exit.USAGE)
    assert str(closed / "store") in error["message"]
    assert "user 65534" in error["message"]
    assert "--store" in error["hint"]
    assert list(closed.iterdir()) == []


@pytest.mark.usefixtures("needs_root")
def test_the_store_of_another_user_is_one_clear_error(reachable: Path) -> None:
    Store.open(reachable / "store").close()
    error = in_child(lambda: Store.open(reachable / "store"), user=65534)
    assert isinstance(error, dict)
    assert (error["id"], error["exit"]) == ("store-permission", Exit.USAGE)


@pytest.mark.usefixtures("needs_root")
def test_a_store_that_loses_permission_on_the_way_is_one_clear_error(reachable: Path) -> None:
    (reachable / "mine").mkdir()
    (reachable / "mine").chmod(0o777)

    def act() -> object:
        store = Store.open(reachable / "mine" / "store")
        for name in ("artifacts/sha256", "cache", "oci/.envbuild", "tmp"):
            (store.root / name).chmod(0o500)
        (reachable / "mine" / "file").write_bytes(b"x")
        seen = []
        for step in (
            lambda: store.adopt(reachable / "mine" / "file"),
            lambda: store.put_record("kind", "key", {}),
            lambda: store.layout.put(b"x"),
            lambda: store.scratch("x").__enter__(),
        ):
            try:
                step()
            except EnvbuildError as error:
                seen.append(error.id)
        return [*seen, (reachable / "mine" / "file").exists()]

    assert in_child(act, user=65534) == ["store-permission"] * 4 + [True]


@pytest.mark.usefixtures("needs_root")
def test_a_read_only_store_is_one_clear_error(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    subprocess.run(["mount", "--bind", tmp_path / "store", tmp_path / "store"], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path / "store"], check=True)
        with pytest.raises(EnvbuildError) as caught:
            Store.open(tmp_path / "store")
    finally:
        subprocess.run(["umount", "-l", tmp_path / "store"], check=True)
    assert (caught.value.id, caught.value.exit) == ("store-read-only", Exit.USAGE)


def test_a_full_disk_is_one_clear_error(small_disk: Path, tmp_path: Path) -> None:
    with Store.open(small_disk) as store:
        big = tmp_path / "big"
        big.write_bytes(bytes(3_000_000))
        with pytest.raises(EnvbuildError) as caught:
            store.adopt(big)
        assert (caught.value.id, caught.value.exit) == ("disk-full", Exit.ENGINE)
        assert big.exists(), "the file is not lost"
        assert list((store.root / "tmp").iterdir()) == []
        with pytest.raises(EnvbuildError):
            store.put_record("kind", "key", {"a": "x" * 3_000_000})
        assert store.record("kind", "key") is None
        assert list((store.root / "tmp").iterdir()) == []
        store.put_record("kind", "key", {"a": "x"})


def test_adopting_moves_a_file_in(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"wheel")
    path.chmod(0o600)
    sha256 = store.adopt(path)
    assert sha256 == hashlib.sha256(b"wheel").hexdigest()
    assert not path.exists()
    assert store.has(sha256, 5)
    assert not store.has(sha256, 6)
    assert store.artifact(sha256).read_bytes() == b"wheel"
    assert store.artifact(sha256).stat().st_mode & 0o777 == 0o644


def test_adopting_from_another_file_system(small_disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"wheel")
    with Store.open(small_disk) as store:
        sha256 = store.adopt(path)
        assert store.artifact(sha256).read_bytes() == b"wheel"
        assert not path.exists()
        assert list((store.root / "tmp").iterdir()) == []


def test_adopting_a_missing_file_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(EnvbuildError, match="No such file"):
        store.adopt(tmp_path / "missing")


def test_an_artifact_is_named_by_hex_digits(store: Store) -> None:
    for name in ("../../etc/passwd", "A" * 64, "", "sha256:" + "0" * 64):
        with pytest.raises(ValueError, match="sha256"):
            store.artifact(name)


@pytest.mark.parametrize(
    "key", ["plain", "sha256:" + "0" * 64, "../../up", "a/b", ".", "..", "", "ä", "x" * 5000]
)
def test_records_come_back_under_any_key(store: Store, key: str) -> None:
    assert store.record("layer", key) is None
    store.put_record("layer", key, {"n": 1})
    store.put_record("layer", key, {"n": 2, "list": ["ä"]})
    assert store.record("layer", key) == {"n": 2, "list": ["ä"]}
    assert store.record("other", key) is None
    files = [path for path in store.root.rglob("*.json") if "cache" in path.parts]
    assert [path.parent for path in files] == [store.root / "cache" / "layer"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"\x00" * 40])
def test_a_damaged_record_counts_as_none(store: Store, content: bytes) -> None:
    store.put_record("layer", "k", {"n": 1})
    (store.root / "cache" / "layer" / "k.json").write_bytes(content)
    assert store.record("layer", "k") is None
    store.put_record("layer", "k", {"n": 2})
    assert store.record("layer", "k") == {"n": 2}


def test_scratch_is_private_and_removed(store: Store) -> None:
    with store.scratch("new-a/b") as one, store.scratch("new-a/b") as two:
        store.sweep()
        assert one != two
        assert list(one.iterdir()) == []
        (one / "deep").mkdir()
        (one / "deep" / "file").write_text("x")
    assert list((store.root / "tmp").iterdir()) == []


def test_scratch_is_removed_after_an_error(store: Store) -> None:
    def fail() -> None:
        with store.scratch("x") as folder:
            (folder / "file").write_text("x")
            raise RuntimeError("build failed")

    with pytest.raises(RuntimeError, match="build failed"):
        fail()
    assert list((store.root / "tmp").iterdir()) == []


def _hold_scratch(root: Path, ready: Connection) -> None:
    with Store.open(root) as store, store.scratch("child") as folder:
        (folder / "file").write_text("x")
        ready.send(str(folder))
        signal.pause()


def test_scratch_of_the_living_stays_and_of_the_dead_is_swept(store: Store) -> None:
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=_hold_scratch, args=(store.root, theirs))
    child.start()
    folder = Path(ours.recv())
    Store.open(store.root).close()
    assert (folder / "file").exists()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert folder.exists()
    Store.open(store.root).close()
    assert list((store.root / "tmp").iterdir()) == []


def _hold_lock(root: Path, ready: Connection) -> None:
    with Store.open(root) as store, store.lock("torch", SilentProgress()):
        ready.send("locked")
        signal.pause()


def test_a_lock_waits_says_for_whom_and_outlives_a_killed_holder(store: Store) -> None:
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=_hold_lock, args=(store.root, theirs))
    child.start()
    ours.recv()
    notes = Notes()
    done = threading.Event()

    def take() -> None:
        with store.lock("torch", notes):
            done.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert notes.said.wait(20)
    assert not done.is_set()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    thread.join(20)
    assert done.is_set()
    assert len(notes.notes) == 1
    assert f"waiting for process {child.pid} (" in notes.notes[0]
    assert "torch" in notes.notes[0]


def test_a_lock_excludes_threads_and_leaves_no_file(store: Store) -> None:
    inside = 0
    most = 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with store.lock("same / name", SilentProgress()):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert [path.name for path in (store.root / "locks").iterdir()] == ["use.lock"]


def test_locks_of_other_names_do_not_wait(store: Store) -> None:
    notes = Notes()
    with store.lock("a", notes), store.lock("b", notes), store.lock("a/b", notes):
        assert notes.notes == []


def test_the_store_file_says_the_format(store: Store) -> None:
    assert json.loads((store.root / "store.json").read_bytes()) == {"format": 1}
