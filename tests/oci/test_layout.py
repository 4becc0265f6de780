"""The image layout: what others read, what concurrent writers and crashes do to it."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import MANIFEST, Descriptor
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.oci.layout import REF_NAME, Layout

SPAWN = multiprocessing.get_context("fork")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "oci")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def some(text: str = "x") -> Descriptor:
    return Descriptor(
        media_type=MANIFEST, digest="sha256:" + hashlib.sha256(text.encode()).hexdigest(), size=1
    )


def image_in(layout: Layout, content: bytes = b"hello") -> Image:
    """A real image of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("greeting")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    with layout.writer() as writer:
        writer.write(gzip.compress(buffer.getvalue(), mtime=0))
    diff_id = "sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest()
    image = Image(
        layers=(Layer(name="base", digest=writer.digest, diff_id=diff_id, size=writer.size),),
        run=RunConfig(
            env={"PATH": "/bin"},
            entrypoint=("/bin/sh",),
            cmd=(),
            working_dir="/",
            user="root",
            labels={"a": "b"},
        ),
        created="2020-01-01T00:00:00Z",
    )
    layout.put(image.config_bytes)
    layout.put(image.manifest_bytes)
    return image


def write(layout: Layout, pieces: int) -> None:
    with layout.writer() as writer:
        for _ in range(pieces):
            writer.write(bytes(100_000))


def unfinished(layout: Layout) -> list[Path]:
    return list((layout.root / ".envbuild").glob("new-*"))


def assert_sound(layout: Layout) -> None:
    """Every blob is what its name says, and the index can be read."""
    for digest in layout.blobs():
        assert "sha256:" + hashlib.sha256(layout.path(digest).read_bytes()).hexdigest() == digest
    assert json.loads((layout.root / "index.json").read_bytes())["schemaVersion"] == 2
    assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_skopeo_reads_it(layout: Layout, tmp_path: Path) -> None:
    image = image_in(layout)
    layout.tag("pytorch-cuda:v2.7-candidate", image.manifest)
    address = f"oci:{layout.root}:pytorch-cuda:v2.7-candidate"
    seen = json.loads(subprocess.run(["skopeo", "inspect", address], check=True, capture_output=True).stdout)
    assert seen["Digest"] == image.digest
    assert seen["Layers"] == [layer.digest for layer in image.layers]
    assert seen["Labels"] == {"a": "b"}
    subprocess.run(["skopeo", "copy", "-q", address, f"oci:{tmp_path}/copy:x"], check=True)
    assert Layout(tmp_path / "copy").tags()["x"].digest == image.digest


def test_it_reads_what_skopeo_wrote(layout: Layout, tmp_path: Path) -> None:
    image = image_in(layout)
    layout.tag("mine", image.manifest)
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci:{layout.root}:mine", f"oci:{tmp_path}/theirs:their:name"], check=True
    )
    theirs = Layout.create(tmp_path / "theirs")
    assert theirs.tags().keys() == {"their:name"}
    theirs.tag("ours", image.manifest)
    assert theirs.tags().keys() == {"their:name", "ours"}
    found = theirs.resolve("their:name")
    assert found is not None
    assert theirs.read(found.digest) == image.manifest_bytes


def test_a_name_means_one_image(layout: Layout) -> None:
    layout.tag("a", some("1"))
    layout.tag("b", some("1"))
    layout.tag("a", some("2"))
    assert {name: found.digest for name, found in layout.tags().items()} == {
        "a": some("2").digest,
        "b": some("1").digest,
    }
    layout.untag("a")
    layout.untag("never there")
    assert layout.resolve("a") is None
    assert layout.resolve("b") == Descriptor(
        media_type=MANIFEST, digest=some("1").digest, size=1, annotations={REF_NAME: "b"}
    )


def test_the_same_names_give_the_same_index(tmp_path: Path) -> None:
    one, two = Layout.create(tmp_path / "1"), Layout.create(tmp_path / "2")
    for layout, names in ((one, "abc"), (two, "cab")):
        for name in names:
            layout.tag(name, some(name))
    assert (one.root / "index.json").read_bytes() == (two.root / "index.json").read_bytes()


def test_entries_of_others_stay(layout: Layout) -> None:
    foreign = {"mediaType": MANIFEST, "digest": some("f").digest, "size": 7, "platform": {"os": "linux"}}
    (layout.root / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [foreign], "annotations": {"k": "v"}})
    )
    layout.tag("a", some())
    index = json.loads((layout.root / "index.json").read_bytes())
    assert foreign in index["manifests"]
    assert index["annotations"] == {"k": "v"}


@pytest.mark.parametrize("name", ["", "a b", "a//b", "-a", "a:", "ä", "a\nb", "../x", "a..b"])
def test_a_name_outside_the_grammar_is_refused(layout: Layout, name: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        layout.tag(name, some())
    assert (caught.value.id, caught.value.exit) == ("bad-image-name", Exit.USAGE)
    assert layout.tags() == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"manifests": {}}', b"\xff\xfe"])
def test_a_broken_index_is_named(layout: Layout, content: bytes) -> None:
    (layout.root / "index.json").write_bytes(content)
    for act in (layout.tags, lambda: layout.tag("a", some())):
        with pytest.raises(EnvbuildError) as caught:
            act()
        assert caught.value.id == "broken-index"
    assert (layout.root / "index.json").read_bytes() == content


def test_a_layout_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(EnvbuildError) as caught:
        Layout.create(tmp_path)
    assert caught.value.id == "layout-version"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_what_is_written_is_read(layout: Layout, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    with layout.writer() as writer:
        for piece in pieces:
            writer.write(memoryview(piece))
    assert writer.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert writer.size == len(data)
    assert layout.has(writer.digest, len(data))
    assert not layout.has(writer.digest, len(data) + 1)
    assert layout.read(writer.digest) == data
    assert layout.put(data) == writer.digest
    assert unfinished(layout) == []


def test_a_failed_writer_leaves_nothing(layout: Layout) -> None:
    def interrupted() -> None:
        with layout.writer() as writer:
            writer.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(layout.blobs()) == []
    assert unfinished(layout) == []


def test_a_changed_blob_is_found(layout: Layout) -> None:
    digest = layout.put(b"right")
    layout.path(digest).write_bytes(b"wrong")
    with pytest.raises(EnvbuildError) as caught:
        layout.read(digest)
    assert (caught.value.id, caught.value.exit) == ("blob-lost", Exit.VERIFY)
    with pytest.raises(EnvbuildError, match="not in the store"):
        layout.read(some().digest)


def test_remove_tells_the_bytes(layout: Layout) -> None:
    digest = layout.put(b"12345")
    assert layout.remove(digest) == 5
    assert layout.remove(digest) == 0


def test_a_digest_that_is_a_path_is_refused(layout: Layout) -> None:
    for digest in ("sha256:../../etc/passwd", "md5:" + "0" * 32, "sha256:" + "A" * 64):
        with pytest.raises(ValueError, match="not a sha256 digest"):
            layout.path(digest)


def test_sweeping_spares_a_writer_at_work(layout: Layout) -> None:
    with layout.writer() as writer:
        writer.write(b"living")
        (layout.root / ".envbuild" / f"new-{'0' * 16}").write_bytes(b"left behind")
        Layout.create(layout.root)
        assert len(unfinished(layout)) == 1
    assert layout.read(writer.digest) == b"living"


def test_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    layout = Layout.create(small_disk / "oci")
    with pytest.raises(EnvbuildError) as caught:
        write(layout, 40)
    assert (caught.value.id, caught.value.exit) == ("disk-full", Exit.ENGINE)
    assert list(layout.blobs()) == []
    assert unfinished(layout) == []
    layout.put(b"there is room again")


def test_a_full_disk_at_the_last_flush_leaves_nothing(small_disk: Path) -> None:
    layout = Layout.create(small_disk / "oci")
    (small_disk / "other").write_bytes(bytes(700_000))
    with pytest.raises(EnvbuildError) as caught:
        write(layout, 9)  # less than the buffer: written at the end
    assert caught.value.id == "disk-full"
    assert list(layout.blobs()) == []
    assert unfinished(layout) == []


def test_a_full_disk_keeps_the_old_index(small_disk: Path) -> None:
    layout = Layout.create(small_disk / "oci")
    layout.tag("a", some("1"))
    with (small_disk / "other").open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))
    with pytest.raises(EnvbuildError) as caught:
        layout.tag("b", some("2"))
    assert caught.value.id == "disk-full"
    assert layout.tags().keys() == {"a"}


def _tag_many(root: str, number: int) -> None:
    layout = Layout.create(Path(root))
    for index in range(8):
        layout.tag(f"w{number}-{index}", some(f"{number}-{index}"))
        layout.put(bytes([index]) * 1000)  # every process writes the same blobs


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    children = [SPAWN.Process(target=_tag_many, args=(str(tmp_path / "oci"), number)) for number in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6
    layout = Layout.create(tmp_path / "oci")
    assert layout.tags().keys() == {f"w{number}-{index}" for number in range(6) for index in range(8)}
    assert len(list(layout.blobs())) == 8
    assert_sound(layout)


def _write_on(root: str, seed: int) -> None:
    chance = random.Random(seed)
    layout = Layout.create(Path(root))
    while True:
        with layout.writer() as writer:
            for _ in range(chance.randrange(1, 8)):
                writer.write(chance.randbytes(chance.randrange(100_000)))
        layout.tag(
            f"t{chance.randrange(5)}", Descriptor(media_type=MANIFEST, digest=writer.digest, size=writer.size)
        )


def test_killed_writers_leave_nothing_that_is_wrong(tmp_path: Path) -> None:
    root = tmp_path / "oci"
    chance = random.Random(7)
    for round_ in range(25):
        children = [SPAWN.Process(target=_write_on, args=(str(root), round_ * 2 + half)) for half in range(2)]
        for child in children:
            child.start()
        time.sleep(chance.uniform(0.005, 0.06))
        for child in children:
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        layout = Layout.create(root)
        assert unfinished(layout) == []
        assert_sound(layout)
        for name, descriptor in layout.tags().items():
            assert layout.has(descriptor.digest, descriptor.size), name
        layout.tag("after", some())
        layout.untag("after")
        for digest in list(layout.blobs())[20:]:
            if digest not in {found.digest for found in layout.tags().values()}:
                layout.remove(digest)
    assert layout.tags(), "the killed processes had come far enough to tag"


def test_a_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    """The kernel drops flock with the process: nothing is decided by process ids."""
    path = tmp_path / "lock"

    def hold() -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGKILL)

    child = SPAWN.Process(target=hold)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    handle = os.open(path, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
