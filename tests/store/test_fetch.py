"""Fetching from servers that fail in the ways servers fail."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from faulty_server import (
    FaultyServer,
    announces,
    cut,
    flipped,
    no_range,
    no_range_cut,
    other,
    redirect,
    stall,
    status,
    unannounced,
    wrong_range,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import SilentProgress, Task
from envbuild.store import Http, Source, Store, Wanted, fetch

DATA = random.Random(1).randbytes(3_000_000)
SIZE = len(DATA)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wanted(*urls: str, data: bytes = DATA, size: int | None = SIZE, name: str = "torch") -> Wanted:
    return Wanted(
        name=name,
        file=f"{name}-1-py3-none-any.whl",
        sha256=sha(data),
        size=size,
        sources=tuple(Source(url=url, label=f"index-{number}") for number, url in enumerate(urls)),
    )


def get(store: Store, http: Http, *items: Wanted, jobs: int = 4) -> int:
    return fetch(store, items, http=http, jobs=jobs, progress=SilentProgress())


def leftovers(store: Store) -> list[str]:
    return sorted(path.name for folder in ("partial", "tmp") for path in (store.root / folder).iterdir())


class Recorded:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.totals: list[int | None] = []
        self.done = 0
        self.notes: list[str] = []
        self._guard = threading.Lock()

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Task]:
        self.totals.append(total)
        yield self

    def advance(self, amount: int) -> None:
        with self._guard:
            self.done += amount

    def total(self, total: int) -> None:
        self.totals.append(total)

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_files_come_in_parallel_and_only_once(store: Store, http: Http, server: FaultyServer) -> None:
    parts = [random.Random(seed).randbytes(100_000 + seed) for seed in range(20)]
    items = []
    for number, part in enumerate(parts):
        server.files[f"/{number}"] = part
        items.append(wanted(f"{server.url}/{number}", data=part, size=len(part), name=f"n{number}"))
    progress = Recorded()
    came = fetch(store, items, http=http, jobs=4, progress=progress)
    assert came == sum(map(len, parts)) == progress.done
    assert progress.totals == [came], "one task with the total of all files"
    for part in parts:
        assert store.artifact(sha(part)).read_bytes() == part
    assert get(store, http, *items) == 0
    assert len(server.requests) == 20
    assert leftovers(store) == []


def test_the_same_file_twice_is_fetched_once(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    assert get(store, http, wanted(f"{server.url}/a"), wanted(f"{server.url}/a", name="again")) == SIZE
    assert len(server.requests) == 1


def test_a_cut_is_resumed_where_it_was(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [cut(1_000_000), cut(500_000)]
    progress = Recorded()
    assert fetch(store, [wanted(f"{server.url}/a")], http=http, jobs=1, progress=progress) == SIZE
    assert server.ranges("/a") == [None, "bytes=1000000-", "bytes=1500000-"]
    assert progress.done == SIZE
    assert store.artifact(sha(DATA)).read_bytes() == DATA


def test_more_cuts_than_tries_are_fine_while_bytes_come(
    store: Store, http: Http, server: FaultyServer
) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [cut(200_000)] * 12
    assert get(store, http, wanted(f"{server.url}/a")) == SIZE


def test_the_next_run_goes_on_where_this_one_stopped(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [cut(2_000_000)]
    server.always["/a"] = status(503)
    with pytest.raises(EnvbuildError) as caught:
        get(store, http, wanted(f"{server.url}/a"))
    assert caught.value.exit == Exit.NETWORK
    assert "index-0 answered 503" in caught.value.message
    assert "2000000 bytes are kept" in caught.value.message
    assert "run the same command again" in caught.value.hint
    server.always.clear()
    assert get(store, http, wanted(f"{server.url}/a")) == SIZE - 2_000_000
    assert server.ranges("/a")[-1] == "bytes=2000000-"
    assert leftovers(store) == []


def test_a_changed_etag_starts_anew(store: Store, http: Http, server: FaultyServer) -> None:
    old = random.Random(2).randbytes(SIZE)
    server.files["/a"] = DATA
    server.etags["/a"] = '"old"'
    server.faults["/a"] = [lambda handler, data: handler.serve(old, cut=1_000_000), *[status(500)] * 3]
    with pytest.raises(EnvbuildError):
        get(store, http, wanted(f"{server.url}/a"))
    server.etags["/a"] = '"new"'
    assert get(store, http, wanted(f"{server.url}/a")) == SIZE
    assert server.requests[-1][1]["if-range"] == '"old"'
    assert len(server.ranges("/a")) == 5, "one request brings the whole new file"


def test_a_tampered_partial_file_is_not_trusted(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    part = store.partial / f"{sha(DATA)}.part"
    part.write_bytes(b"x" * 1000 + DATA[1000:2_000_000])
    assert get(store, http, wanted(f"{server.url}/a")) == SIZE - 2_000_000 + SIZE
    assert store.artifact(sha(DATA)).read_bytes() == DATA


def test_a_partial_file_that_is_complete_needs_no_request(
    store: Store, http: Http, server: FaultyServer
) -> None:
    (store.partial / f"{sha(DATA)}.part").write_bytes(DATA)
    assert get(store, http, wanted(f"{server.url}/a")) == 0
    assert store.artifact(sha(DATA)).read_bytes() == DATA
    assert server.requests == []


def test_a_partial_file_that_is_too_long_is_dropped(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    (store.partial / f"{sha(DATA)}.part").write_bytes(DATA + b"more")
    assert get(store, http, wanted(f"{server.url}/a")) == SIZE


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (status(500), "500"),
        (status(502), "502"),
        (status(503, Retry_After="0"), "503"),
        (status(429, Retry_After="0.01"), "429"),
        (status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), "429 with a date"),
        (status(408), "408"),
        (cut(0), "cut before the first byte"),
        (stall(30), "stall in the middle"),
        (unannounced(1_000_000), "no length, ends early"),
        (no_range_cut(1_000_000), "no ranges, cut"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_passes_is_tried_again(
    store: Store, http: Http, server: FaultyServer, first: object, name: str
) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [first]  # type: ignore[list-item]  # pytest gives parameters as objects
    get(store, http, wanted(f"{server.url}/a"))
    assert store.artifact(sha(DATA)).read_bytes() == DATA, name
    assert len(server.requests) == 2
    assert leftovers(store) == []


def test_a_cut_after_the_last_byte_does_no_harm(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    server.always["/a"] = announces(SIZE + 5)
    assert get(store, http, wanted(f"{server.url}/a")) == SIZE
    assert len(server.requests) == 1


def test_a_server_without_ranges_sends_all_again(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [no_range_cut(1_000_000), no_range]
    progress = Recorded()
    assert fetch(store, [wanted(f"{server.url}/a")], http=http, jobs=1, progress=progress) == SIZE + 1_000_000
    assert progress.done == SIZE, "a byte that comes twice is shown once"


def test_an_answer_for_another_range_is_not_appended(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [cut(1_000_000), wrong_range]
    get(store, http, wanted(f"{server.url}/a"))
    assert store.artifact(sha(DATA)).read_bytes() == DATA


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (flipped(1_234_567), f"({SIZE} bytes)"),
        (other(DATA[:-1]), f"({SIZE - 1} bytes)"),
        (other(DATA + b"!"), f"(more than {SIZE} bytes)"),
        (other(b""), "(0 bytes)"),
        (other(b"<html>log in</html>"), "(19 bytes)"),
    ],
)
def test_wrong_bytes_are_refused(
    store: Store, http: Http, server: FaultyServer, fault: object, seen: str
) -> None:
    server.files["/a"] = DATA
    server.always["/a"] = fault  # type: ignore[assignment]  # pytest gives parameters as objects
    with pytest.raises(EnvbuildError) as caught:
        get(store, http, wanted(f"{server.url}/a"))
    error = caught.value
    assert (error.id, error.exit) == ("wrong-hash", Exit.VERIFY)
    assert "torch" in error.message
    assert f"expected sha256 {sha(DATA)} ({SIZE} bytes)" in error.message
    assert "index-0 gave sha256 " in error.message
    assert seen in error.message
    assert error.where == "torch-1-py3-none-any.whl"
    assert not store.has(sha(DATA))
    assert leftovers(store) == [], "the wrong file is removed"


def test_the_seen_hash_is_that_of_the_wrong_file(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = b"other"
    with pytest.raises(EnvbuildError) as caught:
        get(store, http, wanted(f"{server.url}/a"))
    assert sha(b"other") in caught.value.message


def test_the_next_source_is_asked_after_wrong_bytes(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/bad"] = bytes(SIZE)
    server.files["/good"] = DATA
    get(store, http, wanted(f"{server.url}/bad", f"{server.url}/gone", f"{server.url}/good"))
    assert store.artifact(sha(DATA)).read_bytes() == DATA
    assert server.ranges("/good") == [None], "nothing of the wrong file is kept"


def test_a_file_begun_at_one_source_is_finished_at_another(
    store: Store, http: Http, server: FaultyServer
) -> None:
    server.files.update({"/a": DATA, "/b": DATA})
    server.faults["/a"] = [cut(1_000_000)]
    server.always["/a"] = status(500)
    get(store, http, wanted(f"{server.url}/a", f"{server.url}/b"))
    assert server.ranges("/b") == ["bytes=1000000-"]


def test_every_source_is_told_in_the_error(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/bad"] = b"x"
    server.always["/down"] = status(500)
    with pytest.raises(EnvbuildError) as caught:
        get(store, http, wanted(f"{server.url}/bad", f"{server.url}/down", f"{server.url}/gone"))
    assert caught.value.exit == Exit.VERIFY
    for text in ("index-0 gave", "index-1 answered 500", "index-2 answered 404"):
        assert text in caught.value.message


def test_a_file_that_is_gone_is_not_asked_for_again(store: Store, http: Http, server: FaultyServer) -> None:
    with pytest.raises(EnvbuildError) as caught:
        get(store, http, wanted(f"{server.url}/gone"))
    assert (caught.value.id, caught.value.exit) == ("not-found", Exit.NETWORK)
    assert len(server.requests) == 1


def test_a_refused_login_says_where_credentials_go(store: Store, http: Http, server: FaultyServer) -> None:
    server.always["/a"] = status(401)
    with pytest.raises(EnvbuildError) as caught:
        get(store, http, wanted(f"{server.url}/a"))
    assert (caught.value.id, caught.value.exit) == ("not-allowed", Exit.NETWORK)
    assert "netrc" in caught.value.hint


def test_a_dead_host_names_the_label_and_no_address(store: Store, http: Http, server: FaultyServer) -> None:
    url = f"http://user:secret@127.0.0.1:{server.server_port}/a?token=hidden"
    server.close()
    with pytest.raises(EnvbuildError) as caught:
        get(store, http, wanted(url))
    text = caught.value.message + caught.value.hint
    assert caught.value.exit == Exit.NETWORK
    assert "index-0 cannot be reached (" in text
    assert "run the same command again" in text
    assert not any(secret in text for secret in ("secret", "hidden", "user", "127.0.0.1"))


def test_without_sources_the_error_says_so(store: Store, http: Http) -> None:
    with pytest.raises(EnvbuildError) as caught:
        get(store, http, wanted())
    assert (caught.value.id, caught.value.exit) == ("no-source", Exit.NETWORK)


def test_an_unknown_size_is_learned_from_the_server(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    progress = Recorded()
    fetch(store, [wanted(f"{server.url}/a", size=None)], http=http, jobs=1, progress=progress)
    assert progress.totals == [None, SIZE]
    assert store.has(sha(DATA), SIZE)


def test_local_files_are_sources(store: Store, http: Http, tmp_path: Path) -> None:
    path = tmp_path / "a file.whl"
    path.write_bytes(DATA)
    assert get(store, http, wanted((tmp_path / "missing").as_uri(), path.as_uri())) == SIZE
    assert path.read_bytes() == DATA
    assert store.artifact(sha(DATA)).read_bytes() == DATA


def test_a_wrong_local_file_is_refused(store: Store, http: Http, tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(DATA[:-1] + b"?")
    with pytest.raises(EnvbuildError) as caught:
        get(store, http, wanted(path.as_uri()))
    assert caught.value.exit == Exit.VERIFY
    assert leftovers(store) == []


def test_redirects_are_followed_and_resumed(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/real"] = DATA
    server.always["/a"] = redirect("/real?signed=1")
    server.faults["/real"] = [cut(1_000_000)]
    assert get(store, http, wanted(f"{server.url}/a")) == SIZE
    assert server.ranges("/real") == [None, "bytes=1000000-"]


def test_a_lost_artifact_is_fetched_again(store: Store, http: Http, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    store.artifact(sha(DATA)).write_bytes(DATA[:100])  # a disk that lost the rest
    assert get(store, http, wanted(f"{server.url}/a")) == SIZE
    assert store.artifact(sha(DATA)).read_bytes() == DATA


def test_one_failure_stops_the_others_and_keeps_what_is_done(
    store: Store, http: Http, server: FaultyServer
) -> None:
    patient = Http(environ={}, read_timeout=60)
    server.files.update({"/done": b"done", "/slow": DATA, "/bad": b"bad"})
    server.always["/slow"] = stall(60)
    get(store, http, wanted(f"{server.url}/done", data=b"done", size=4, name="done"))
    with pytest.raises(EnvbuildError) as caught:
        get(
            store,
            patient,
            wanted(f"{server.url}/slow"),
            wanted(f"{server.url}/bad", data=b"good", size=4, name="small"),
        )
    assert caught.value.id == "wrong-hash"
    assert store.has(sha(b"done"))
    assert not store.has(sha(DATA))


def test_memory_does_not_grow_with_the_file(store: Store, http: Http, server: FaultyServer) -> None:
    data = random.Random(3).randbytes(1 << 20) * 48
    server.files["/big"] = data
    tracemalloc.start()
    try:
        get(store, http, wanted(f"{server.url}/big", data=data, size=len(data)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20, f"{peak} bytes for a file of {len(data)}"


def test_a_full_disk_is_seen_before_the_first_byte(
    small_disk: Path, http: Http, server: FaultyServer
) -> None:
    server.files["/a"] = DATA
    with Store.open(small_disk) as store:
        with pytest.raises(EnvbuildError) as caught:
            get(store, http, wanted(f"{server.url}/a"))
        assert (caught.value.id, caught.value.exit) == ("disk-full", Exit.ENGINE)
        assert f"{SIZE:,} bytes are needed" in caught.value.message
        assert server.requests == []


def test_a_disk_that_fills_up_leaves_nothing_half_made(
    small_disk: Path, http: Http, server: FaultyServer
) -> None:
    server.files["/a"] = DATA
    with Store.open(small_disk) as store:
        with pytest.raises(EnvbuildError) as caught:
            get(store, http, wanted(f"{server.url}/a", size=None))
        assert (caught.value.id, caught.value.exit) == ("disk-full", Exit.ENGINE)
        assert leftovers(store) == []
        server.files["/b"] = b"small"
        get(store, http, wanted(f"{server.url}/b", data=b"small", size=5))


def _fetch_in_child(root: str, url: str, results: multiprocessing.SimpleQueue[int]) -> None:
    with Store.open(Path(root)) as store:
        results.put(get(store, Http(environ={}), wanted(url)))


def test_two_processes_fetch_a_file_once(tmp_path: Path, server: FaultyServer) -> None:
    server.files["/a"] = DATA
    server.pause = 0.01
    context = multiprocessing.get_context("fork")
    results: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    url = f"{server.url}/a"
    children = [
        context.Process(target=_fetch_in_child, args=(str(tmp_path / "store"), url, results)) for _ in "abc"
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert sorted(results.get() for _ in children) == [0, 0, SIZE]
    assert len(server.requests) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(
        st.sampled_from(["cut", "no-range-cut", "no-range", "500", "429", "wrong-range", "unannounced"]),
        max_size=6,
    ),
    seed=st.integers(0, 10_000),
)
def test_whatever_goes_wrong_the_file_is_right_or_absent(
    faults: list[str], seed: int, tmp_path_factory: pytest.TempPathFactory, http: Http, server: FaultyServer
) -> None:
    chance = random.Random(seed)
    data = chance.randbytes(chance.randrange(1, 300_000))
    kinds = {
        "cut": lambda: cut(chance.randrange(len(data) + 1)),
        "no-range-cut": lambda: no_range_cut(chance.randrange(len(data) + 1)),
        "no-range": lambda: no_range,
        "500": lambda: status(500),
        "429": lambda: status(429),
        "wrong-range": lambda: wrong_range,
        "unannounced": lambda: unannounced(chance.randrange(len(data) + 1)),
    }
    server.files["/x"] = data
    server.faults["/x"] = [kinds[name]() for name in faults]
    item = wanted(f"{server.url}/x", data=data, size=len(data))
    with Store.open(tmp_path_factory.mktemp("store")) as store:
        for _ in range(len(faults) + 1):
            if store.has(sha(data)):
                break
            with suppress(EnvbuildError):  # any other exception fails
                get(store, http, item)
        assert store.artifact(sha(data)).read_bytes() == data
        assert leftovers(store) == []
