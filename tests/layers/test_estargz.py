"""A wheel layer is eStargz: a reader that knows only the specification finds each file, alone, and proves it.

The reader below follows the text of stargz-snapshotter's docs/estargz.md, and shares no code with the writer.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import tarfile
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from test_wheel_layer_contents import read_by_tarfile, wheels
from wheelmaker import DEFLATED, STORED, Entry, changed, wheel_entries, write_wheel, zip_bytes

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.format import SITE
from envbuild.layers.splice import write_known_layer, write_wheel_layer
from envbuild.layers.wheel import plan_wheel
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress

FILE = "demo-1.0-py3-none-any.whl"
NOISE = random.Random(5).randbytes(200_000)


def layer_of(folder: Path, entries: list[Entry]) -> tuple[Layer, bytes]:
    plan = plan_wheel(write_wheel(folder, zip_bytes(entries), FILE), file=FILE, sha256="0" * 64)
    layout = Layout.create(folder / "oci")
    layer = write_wheel_layer("demo", [plan], layout, SilentProgress())
    return layer, layout.path(layer.digest).read_bytes()


def member_at(blob: bytes, offset: int) -> tuple[bytes, int]:
    """What the one gzip member at ``offset`` holds, and where it ends; its CRC32 and size are checked."""
    assert blob[offset : offset + 2] == b"\x1f\x8b"
    stream = zlib.decompressobj(wbits=31)
    plain = stream.decompress(blob[offset:]) + stream.flush()
    assert stream.eof
    return plain, len(blob) - len(stream.unused_data)


def toc_of(blob: bytes) -> tuple[bytes, int]:
    """The table of contents, found as a runtime does, and where its member begins."""
    footer = blob[-51:]
    assert footer[:4] == b"\x1f\x8b\x08\x04", "a gzip header with an extra field"
    assert footer[10:16] == b"\x1a\x00SG\x16\x00"
    assert footer[32:38] == b"STARGZ"
    assert gzip.decompress(footer) == b""
    offset = int(footer[16:32], 16)
    plain, end = member_at(blob, offset)
    assert end == len(blob) - 51, "the table is one member, and the footer follows it"
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        [entry] = tar.getmembers()
        assert entry.name == "stargz.index.json"
        content = tar.extractfile(entry)
        assert content is not None
        return content.read(), offset


def check(layer: Layer, blob: bytes) -> list[dict[str, Any]]:
    """Read every file alone and hold it against the tar that others see; the entries of the table."""
    toc, end = toc_of(blob)
    assert layer.toc == "sha256:" + hashlib.sha256(toc).hexdigest()
    assert layer.tar_size == len(gzip.decompress(blob))
    assert layer.descriptor.annotations == {
        "containerd.io/snapshot/stargz/toc.digest": layer.toc,
        "io.containers.estargz.uncompressed-size": str(layer.tar_size),
    }
    document = json.loads(toc)
    assert document.keys() == {"version", "entries"}
    assert document["version"] == 1
    offsets = [entry["offset"] for entry in document["entries"] if "offset" in entry]
    assert offsets == sorted(set(offsets)), "readers take the next entry's offset as an entry's end"
    assert all(0 < offset < end for offset in offsets)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob))) as tar:
        members = tar.getmembers()
        assert [e["name"].rstrip("/") for e in document["entries"]] == [m.name for m in members[:-1]]
        for entry, member in zip(document["entries"], members, strict=False):
            assert (entry["mode"], entry["uid"], entry["gid"]) == (member.mode, 0, 0)
            assert entry["modtime"] == entry["ModTime"] == "2020-01-01T00:00:00Z"
            if entry["type"] == "dir":
                assert member.isdir()
                assert entry["name"].endswith("/")
                continue
            assert entry["type"] == "reg"
            stream = tar.extractfile(member)
            assert stream is not None
            content = stream.read()
            assert entry["digest"] == "sha256:" + hashlib.sha256(content).hexdigest()
            assert entry.get("size", 0) == len(content)
            if content:
                assert member_at(blob, entry["offset"])[0] == content
                assert entry["chunkDigest"] == entry["digest"]
            else:
                assert not {"offset", "chunkDigest"} & entry.keys()
    return list(document["entries"])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(entries=wheels())
def test_each_file_can_be_read_alone(entries: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(*layer_of(Path(folder), entries))


def test_stored_written_and_empty_files_are_in_it_too(tmp_path: Path) -> None:
    body = [
        Entry("demo/stored.bin", NOISE, method=STORED),
        Entry("demo/empty.py"),
        Entry("demo/empty-stored.py", method=STORED),
        Entry("demo/" + "long-" * 40 + "\u00fc.py", b"x = 1\n" * 90),
        Entry("demo-1.0.data/scripts/go", b"#!python\nprint()\n", mode=0o100755),
    ]
    entries = wheel_entries(body, entry_points="[console_scripts]\ndemo = demo.a:main\n")
    found = {entry["name"]: entry for entry in check(*layer_of(tmp_path, entries))}
    assert found["opt/venv/bin/go"]["mode"] == found["opt/venv/bin/demo"]["mode"] == 0o755
    assert found[f"{SITE}/demo/stored.bin"]["size"] == len(NOISE)
    assert f"{SITE}/demo-1.0.dist-info/RECORD" in found
    assert f"{SITE}/demo/" in found


def test_no_file_is_fetched_before_it_is_asked_for(tmp_path: Path) -> None:
    """docs/estargz.md, "Prioritized Files and Landmark Files": else readers fetch some of each layer at once."""
    layer, blob = layer_of(tmp_path, wheel_entries([Entry("demo/a.py", b"a")]))
    landmark = check(layer, blob)[0]
    assert (landmark["name"], landmark["type"]) == (".no.prefetch.landmark", "reg")
    assert member_at(blob, landmark["offset"])[0] == b"\x0f"


def test_a_changed_file_leaves_the_others_digests(tmp_path: Path) -> None:
    """What a node has of the wheel before is found again by digest."""
    versions = []
    for text in (b"one", b"two"):
        entries = wheel_entries([Entry("demo/same.bin", NOISE), Entry("demo/other.py", text)])
        versions.append(check(*layer_of(tmp_path / text.decode(), entries)))
    one, two = ({entry["name"]: entry.get("digest") for entry in version} for version in versions)
    assert {name for name in one if one[name] != two[name]} == {
        f"{SITE}/demo/other.py",
        f"{SITE}/demo-1.0.dist-info/RECORD",
    }


def with_hash(entries: list[Entry], name: str, algorithm: str) -> list[Entry]:
    """The wheel whose RECORD has another hash than sha256 for one file."""
    [content] = [entry.content for entry in entries if entry.name == name]
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).decode().rstrip("=")
    [record] = [entry for entry in entries if entry.name == "demo-1.0.dist-info/RECORD"]
    lines = record.content.decode().splitlines()
    lines = [
        f"{name},{algorithm}={digest},{len(content)}" if line.startswith(f"{name},") else line
        for line in lines
    ]
    return changed(entries, str(record.name), content=("\n".join(lines) + "\n").encode())


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_record_of_longer_hashes_gives_the_same_kind_of_table(tmp_path: Path, method: int) -> None:
    entries = with_hash(wheel_entries([Entry("demo/a.bin", NOISE, method=method)]), "demo/a.bin", "sha512")
    layer, blob = layer_of(tmp_path, entries)
    found = {entry["name"]: entry for entry in check(layer, blob)}
    assert found[f"{SITE}/demo/a.bin"]["digest"] == "sha256:" + hashlib.sha256(NOISE).hexdigest()
    record = read_by_tarfile(tmp_path / "oci/blobs/sha256" / layer.digest.removeprefix("sha256:"))
    assert b"demo/a.bin,sha512=" in record[f"{SITE}/demo-1.0.dist-info/RECORD"][1]


@pytest.mark.parametrize("hash", ["sha256=", "sha256=AAAA", "sha256=" + "!" * 43, "sha256=" + "é" * 43])
def test_a_hash_that_cannot_be_one_is_refused(tmp_path: Path, hash: str) -> None:
    entries = wheel_entries([Entry("demo/a.py", b"a")])
    [record] = [entry for entry in entries if entry.name == "demo-1.0.dist-info/RECORD"]
    lines = [f"demo/a.py,{hash},1", *record.content.decode().splitlines()[1:]]
    entries = changed(entries, str(record.name), content=("\n".join(lines) + "\n").encode())
    with pytest.raises(EnvbuildError) as caught:
        layer_of(tmp_path, entries)
    assert (caught.value.id, caught.value.exit) == ("wheel-record-hash", Exit.VERIFY)


def test_a_lock_that_names_another_table_is_noticed(tmp_path: Path) -> None:
    layer, _ = layer_of(tmp_path, wheel_entries([Entry("demo/a.py", b"a")]))
    plan = plan_wheel(tmp_path / FILE, file=FILE, sha256="0" * 64)
    layout = Layout.create(tmp_path / "second")
    for wrong in (
        replace(layer, toc="sha256:" + "1" * 64),
        replace(layer, tar_size=1),
        replace(layer, toc=None),
    ):
        assert write_known_layer(wrong, [plan], layout, SilentProgress()) is False
        assert list(layout.blobs()) == []
    assert write_known_layer(layer, [plan], layout, SilentProgress()) is True
