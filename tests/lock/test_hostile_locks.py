"""Locks and index pages that are malformed: one error each, never a traceback, and bounded memory."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer

import envbuild
from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import parse_conda_lock, parse_lock, read_lock
from envbuild.lock.debian.archive import Archive, Release
from envbuild.lock.debian.signature import Keyring
from envbuild.lock.python.simple import project
from envbuild.oci.digest import of_bytes
from envbuild.store import Http
from envbuild.store.retry import Patience

RECIPES = Path(envbuild.__file__).parents[1] / "recipes"
LOCK = RECIPES / "pytorch-cuda/v2.7/lock.json"
CONDA = RECIPES / "pytorch-cuda/v2.7/conda.lock.json"
DEEP = b"[" * 100_000
BAD_SHA256 = ["", "x", "0" * 63, "0" * 65, "A" * 64, "../" * 20, "/etc", "0" * 64 + "\n", 7, None]
BAD_TIMES = [
    "",
    "2026-99-99T99:99:99Z",
    "2026-02-30T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "٢٠٢٦-01-02T03:04:05Z",
    "2026-1-2T3:4:5Z",
]
REST = b"\nArchitecture: all\nSHA256: " + b"0" * 64 + b"\n"


def refused(run: Callable[[], object], *ids: str) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        run()
    assert caught.value.id in ids, (caught.value.id, caught.value.message)
    assert caught.value.hint
    return caught.value


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(path.read_bytes())
    change(value)
    return json.dumps(value).encode()


@pytest.mark.parametrize("bad", BAD_SHA256)
@pytest.mark.parametrize("where", ["debian", "python", "native", "conda"])
def test_a_hash_in_a_lock_is_one(where: str, bad: object) -> None:
    if where == "conda":
        data = edited(CONDA, lambda lock: lock["packages"][0].update(sha256=bad))
        refused(lambda: parse_conda_lock(data, CONDA), "lock-wrong")
        return
    data = edited(
        LOCK,
        lambda lock: (lock["native"]["source"] if where == "native" else lock[where][0]).update(sha256=bad),
    )
    refused(lambda: parse_lock(data, LOCK), "lock-wrong")


@pytest.mark.parametrize(
    "bad", ["", "sha256:", "/etc", "sha256:../x", "sha256:" + "A" * 64, "0" * 64, 7, None]
)
@pytest.mark.parametrize(
    "change",
    [
        lambda image, bad: image.update(digest=bad),
        lambda image, bad: image.update(config=bad),
        lambda image, bad: image["layers"][0].update(digest=bad),
        lambda image, bad: image["layers"][0].update(diff_id=bad),
    ],
    ids=["digest", "config", "layer", "diff_id"],
)
def test_a_digest_in_a_lock_is_one(change: Callable[[dict[str, Any], object], object], bad: object) -> None:
    data = edited(LOCK, lambda lock: change(lock["image"], bad))
    refused(lambda: parse_lock(data, LOCK), "lock-wrong")


@pytest.mark.parametrize("bad", BAD_TIMES)
def test_a_time_in_a_lock_is_one_that_there_is(bad: str) -> None:
    for change in (
        lambda lock: lock.update(created=bad),
        lambda lock: lock.update(resolved=bad[:10]),
        lambda lock: lock["python"][0].update(uploaded=bad),
    ):
        data = edited(LOCK, change)
        refused(lambda data=data: parse_lock(data, LOCK), "lock-wrong")
    data = edited(CONDA, lambda lock: lock.update(exclude_newer=bad))
    refused(lambda: parse_conda_lock(data, CONDA), "lock-wrong")


@pytest.mark.parametrize("stamp", [-1, 1 << 62, 10**30])
def test_a_conda_package_was_built_at_a_time_that_there_is(stamp: int) -> None:
    data = edited(CONDA, lambda lock: lock["packages"][0].update(timestamp=stamp))
    refused(lambda: parse_conda_lock(data, CONDA), "lock-wrong", "lock-broken")


@pytest.mark.parametrize("name", ["a\0b", "a b", "a\nRUN x", "-r", "\x1b[31m", "../x"])
def test_names_in_a_lock_are_plain(name: str) -> None:
    for change in (
        lambda lock: lock["python"][0].update(name=name),
        lambda lock: lock["python"][0].update(version=name),
        lambda lock: lock["python"][0].update(file=name),
    ):
        data = edited(LOCK, change)
        refused(lambda data=data: parse_lock(data, LOCK), "lock-wrong")


@pytest.mark.parametrize(
    "data",
    [
        DEEP,
        b'{"format": 2, "recipe": ' + DEEP,
        b'{"recipe": ' + b"[" * 300 + b"]" * 300 + b"}",
        b"\0",
        b"1" * 9999,
        b'{"format": 1' + b"0" * 400 + b"}",
        b'{"format": 1e999}',
        b'{"ref": "\\ud800"}',
        b"",
    ],
)
def test_a_lock_that_is_none_gives_one_error(data: bytes) -> None:
    for parse in (parse_lock, parse_conda_lock):
        error = refused(lambda parse=parse: parse(data, LOCK), "lock-broken", "lock-wrong", "lock-too-new")
        assert error.exit == Exit.INPUT


def test_a_recipe_in_a_lock_that_is_nested_deep_gives_one_error() -> None:
    inner: object = 1
    for _ in range(200):
        inner = [inner]
    data = edited(LOCK, lambda lock: lock["recipe"].update(more=inner))
    refused(lambda: parse_lock(data, LOCK), "lock-broken")


def test_a_lock_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock.json")
    refused(lambda: read_lock(tmp_path / "lock.json"), "lock-unreadable")


def test_the_committed_locks_are_read() -> None:
    for path in RECIPES.glob("*/*/lock.json"):
        assert read_lock(path).python
    for path in RECIPES.glob("*/*/conda.lock.json"):
        assert parse_conda_lock(path.read_bytes(), path).packages


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def http(tmp_path: Path) -> Http:
    return Http(environ={"HOME": str(tmp_path)}, patience=Patience(tries=1))


@pytest.mark.parametrize(
    "page",
    [
        b'{"files": ' + DEEP,
        b'{"files": 7}',
        b'{"files": [7]}',
        b'{"files": [{}]}',
        b'{"files": [{"filename": 7, "url": 7}]}',
        b'{"files": [{"filename": "x-1-py3-none-any.whl", "url": "http://["}]}',
        b'{"files": [{"filename": "x-1-py3-none-any.whl", "url": "u", "hashes": 7}]}',
        b'{"files": [{"filename": "x-1-py3-none-any.whl", "url": "u", "upload-time": 7}]}',
        gzip.compress(b'{"files": []}'),
        b"\0" * 100,
        b'<a href="http://[">x</a>',
    ],
)
def test_an_index_page_that_is_none_gives_one_error(server: FaultyServer, http: Http, page: bytes) -> None:
    server.files["/simple/x/"] = page
    error = refused(lambda: project("x", [f"{server.url}/simple"], http), "index-malformed")
    assert error.exit == Exit.NETWORK


@pytest.mark.parametrize("made_up", [{"hashes": {"sha256": "/etc"}}, {"size": -1}, {"size": 2**70}])
def test_a_hash_or_size_that_no_file_has_makes_a_page_malformed(
    server: FaultyServer, http: Http, made_up: dict[str, object]
) -> None:
    entry = {"filename": "x-1-py3-none-any.whl", "url": "u", **made_up}
    server.files["/simple/x/"] = json.dumps({"files": [entry]}).encode()
    with pytest.raises(EnvbuildError) as caught:
        project("x", [f"{server.url}/simple"], http)
    assert caught.value.id == "index-malformed"


@pytest.mark.parametrize(
    ("ending", "data"),
    [
        (".xz", lzma.compress(bytes((256 << 20) + 1), preset=0)),
        (".gz", gzip.compress(bytes((256 << 20) + 1), 1)),
        (".xz", b"\xfd7zXZ\0\0"),
        (".gz", gzip.compress(b"x")[:-9]),
        ("", b"Package: x\nArchitecture: amd64\nSHA256: " + b"0" * 64 + b"\n"),
        (
            "",
            b"Package: x\nVersion: 1\nFilename: x\nSize: \xc2\xb2\nArchitecture: all\nSHA256: "
            + b"0" * 64
            + b"\n",
        ),
        (
            "",
            b"Package: x\nVersion: 1\nFilename: x\nSize: "
            + b"1" * 5000
            + b"\nArchitecture: all\nSHA256: "
            + b"0" * 64,
        ),
    ],
    ids=[
        "xz inflates",
        "gz inflates",
        "cut xz",
        "cut gz",
        "no version",
        "a size that is none",
        "a long size",
    ],
)
def test_an_index_of_packages_that_is_none_gives_one_error(
    tmp_path: Path, http: Http, ending: str, data: bytes
) -> None:
    path = f"main/binary-amd64/Packages{ending}"
    target = tmp_path / "dists" / "bookworm" / path
    target.parent.mkdir(parents=True)
    target.write_bytes(data)
    files = {path: (of_bytes(data).removeprefix("sha256:"), len(data))}
    release = Release(suite="bookworm", codename="bookworm", files=files, valid_until=None)
    archive = Archive(address=tmp_path.as_uri(), keyring=Keyring(gpgv="gpgv", path=tmp_path), http=http)
    error = refused(lambda: archive.packages(release, "main"), "debian-index-wrong")
    assert error.exit == Exit.VERIFY
