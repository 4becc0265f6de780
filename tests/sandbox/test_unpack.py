"""Layers become roots: whole, verified, and never outside of their folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from functools import partial
from pathlib import Path

import pytest
import zstandard

from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import SilentProgress
from envbuild.sandbox import Command, Rootfs
from envbuild.sandbox.unpack import root_name, unpack_flat, unpack_layer, unpack_layers


def entry(name, data=None, *, kind=None, link="", mode=0o644, uid=0, gid=0, mtime=1577836800, pax=None):
    info = tarfile.TarInfo(name)
    info.type = kind or (tarfile.DIRTYPE if data is None and not link else tarfile.REGTYPE)
    info.linkname, info.mode, info.uid, info.gid, info.mtime = link, mode, uid, gid, mtime
    info.pax_headers = pax or {}
    info.size = len(data or b"") if info.type == tarfile.REGTYPE else 0
    return info, data


def tar(*entries):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return stream.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def members(data, size=100):
    """gzip of many members, an empty one among them."""
    return b"".join(gzip.compress(data[at : at + size]) for at in range(0, len(data), size)) + gzip.compress(
        b""
    )


def put(folder: Path, data: bytes) -> Path:
    path = folder / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    return path


SAMPLE = tar(
    entry("usr/", mode=0o755),
    entry("usr/bin", mode=0o750, uid=3, gid=4),
    entry("usr/bin/tool", b"#!/bin/sh\n" * 500, mode=0o4755, uid=1000, gid=1001),
    entry("usr/bin/again", kind=tarfile.LNKTYPE, link="usr/bin/tool"),
    entry("bin", kind=tarfile.SYMTYPE, link="usr/bin"),
    entry("bin/through", b"inside"),
    entry("absolute", kind=tarfile.SYMTYPE, link="/usr"),
    entry("absolute/etc", b"inside, too"),
    entry("no/parent/named", b"x"),
    entry("n" * 90 + "/" + "é" * 80, b"long", mtime=12345),
    entry("locked", mode=0o500),
    entry("locked/file", b"y", mode=0),
)


@pytest.mark.parametrize(
    "compress",
    [lambda d: d, gzip.compress, members, zstandard.ZstdCompressor().compress],
    ids=["plain", "gzip", "members", "zstd"],
)
def test_a_layer_is_unpacked_with_owners_modes_times_and_links(sandbox, tmp_path, compress):
    root = unpack_layer(sandbox, put(tmp_path, compress(SAMPLE)), digest(SAMPLE), tmp_path / "roots")
    assert root == tmp_path / "roots" / hashlib.sha256(SAMPLE).hexdigest()
    tool = (root / "usr/bin/tool").stat()
    assert (tool.st_mode & 0o7777, tool.st_uid, tool.st_gid, tool.st_mtime) == (
        0o4755,
        1000,
        1001,
        1577836800,
    )
    assert tool.st_nlink == 2
    assert (root / "usr/bin/again").stat().st_ino == tool.st_ino
    folder = (root / "usr/bin").stat()
    assert (folder.st_mode & 0o7777, folder.st_uid, folder.st_mtime) == (0o750, 3, 1577836800)
    assert os.readlink(root / "absolute") == "/usr"
    assert (root / "bin").lstat().st_mtime == 1577836800
    assert (root / "usr/bin/through").read_bytes() == b"inside"
    assert (root / "usr/etc").read_bytes() == b"inside, too"
    assert (root / "no/parent/named").read_bytes() == b"x"
    assert (root / ("n" * 90) / ("é" * 80)).stat().st_mtime == 12345
    assert (root / "locked").stat().st_mode & 0o7777 == 0o500
    assert sorted(os.listdir(tmp_path / "roots")) == [root.name]


def test_a_root_that_is_there_is_not_made_again(sandbox, tmp_path):
    root = unpack_layer(sandbox, put(tmp_path, SAMPLE), digest(SAMPLE), tmp_path / "roots")
    assert unpack_layer(sandbox, tmp_path / "gone", digest(SAMPLE), tmp_path / "roots") == root


def test_several_layers_at_once_in_their_order(sandbox, tmp_path):
    blobs = [tar(entry(f"file{number}", b"x" * number)) for number in range(6)]
    layers = [(digest(blob), put(tmp_path, gzip.compress(blob))) for blob in blobs]
    roots = unpack_layers(sandbox, layers, tmp_path / "roots", jobs=3, progress=SilentProgress())
    assert [next(root.iterdir()).name for root in roots] == [f"file{number}" for number in range(6)]


def test_bytes_after_the_end_belong_to_the_diff_id(sandbox, tmp_path):
    data = SAMPLE + b"\0" * 7000
    assert unpack_layer(sandbox, put(tmp_path, data), digest(data), tmp_path / "roots").is_dir()


HOSTILE = {
    "parent": [entry("../evil", b"x")],
    "hidden parent": [entry("a/../../evil", b"x")],
    "hard link out": [entry("h", kind=tarfile.LNKTYPE, link="../outside")],
    "hard link to nothing": [entry("h", kind=tarfile.LNKTYPE, link="missing")],
    "hard link to an absolute path": [entry("h", kind=tarfile.LNKTYPE, link="/etc/hostname-of-nobody")],
    "circle": [
        entry("a", kind=tarfile.SYMTYPE, link="b"),
        entry("b", kind=tarfile.SYMTYPE, link="a"),
        entry("a/x", b""),
    ],
    "through a file": [entry("a", b""), entry("a/b", b"")],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_entries_are_refused_and_leave_nothing(sandbox, tmp_path, entries):
    data = tar(*entries)
    (tmp_path / "outside").write_text("outside")
    with pytest.raises(EnvbuildError) as caught:
        unpack_layer(sandbox, put(tmp_path, data), digest(data), tmp_path / "roots")
    assert (caught.value.id, caught.value.exit) == ("layer-hostile", Exit.VERIFY)
    assert os.listdir(tmp_path / "roots") == []
    assert not (tmp_path / "evil").exists()


def test_links_out_are_followed_inside_only(sandbox, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    data = tar(
        entry("up", kind=tarfile.SYMTYPE, link="../../../../../.."),
        entry("up/one", b"1"),
        entry("abs", kind=tarfile.SYMTYPE, link=str(outside)),
        entry("abs/two", b"2"),
        entry("final", kind=tarfile.SYMTYPE, link=str(outside / "three")),
        entry("final", b"3"),
        entry("/four", b"4"),
    )
    root = unpack_layer(sandbox, put(tmp_path, data), digest(data), tmp_path / "roots")
    assert list(outside.iterdir()) == []
    assert (root / "one").read_bytes() == b"1"
    assert (root / str(outside).lstrip("/") / "two").read_bytes() == b"2"
    assert (root / "final").read_bytes() == b"3"
    assert (root / "four").read_bytes() == b"4"


@pytest.mark.parametrize("damage", ["wrong diff_id", "cut", "flipped byte", "cut tar", "not a tar"])
def test_damaged_blobs_are_refused_and_leave_nothing(sandbox, tmp_path, damage):
    blob, expected = bytearray(members(SAMPLE, 4000)), digest(SAMPLE)
    if damage == "wrong diff_id":
        expected = digest(b"")
    elif damage == "cut":
        del blob[-60:]
    elif damage == "flipped byte":
        blob[len(blob) // 2] ^= 1
    elif damage == "cut tar":
        blob = bytearray(gzip.compress(SAMPLE[:3000]))
    else:
        blob = bytearray(gzip.compress(b"hello" * 1000))
    with pytest.raises(EnvbuildError) as caught:
        unpack_layer(sandbox, put(tmp_path, bytes(blob)), expected, tmp_path / "roots")
    assert (caught.value.id, caught.value.exit) == ("layer-damaged", Exit.VERIFY)
    assert os.listdir(tmp_path / "roots") == []


def test_what_a_killed_process_left_is_swept(sandbox, tmp_path):
    (tmp_path / f"roots/.{'0' * 64}.0123abcd/deep").mkdir(parents=True)
    root = unpack_layer(sandbox, put(tmp_path, SAMPLE), digest(SAMPLE), tmp_path / "roots")
    assert os.listdir(tmp_path / "roots") == [root.name]


def test_only_names_that_unpacking_makes_are_swept(sandbox, tmp_path):
    """A folder of roots may be given by mistake: what else lies there is somebody's."""
    names = [
        ".ssh",
        ".half.1234",
        f".{'0' * 64}",
        f".{'0' * 64}.0123abcd.txt",
        f".{'g' * 64}.0123abcd",
        "plain",
    ]
    for name in names:
        (tmp_path / "roots" / name / "deep").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (tmp_path / f"roots/.{'1' * 64}.0123abcd").symlink_to(elsewhere)
    root = unpack_layer(sandbox, put(tmp_path, SAMPLE), digest(SAMPLE), tmp_path / "roots")
    assert {root.name, *names} <= set(os.listdir(tmp_path / "roots"))
    assert all((tmp_path / "roots" / name / "deep").is_dir() for name in names)
    assert (elsewhere / "deep").is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "/etc",
        "/home/me/x",
        "",
        "sha256:",
        "sha256:../../x",
        "sha256:" + "A" * 64,
        "0" * 64,
        "sha256:" + "0" * 64 + "\n",
    ],
)
def test_a_diff_id_that_is_no_digest_names_no_folder(sandbox, tmp_path, name):
    own = tmp_path / "roots/.ssh"
    own.mkdir(parents=True)
    for call in (
        lambda: root_name([name]),
        lambda: root_name([digest(b""), name]),
        lambda: unpack_layer(sandbox, put(tmp_path, SAMPLE), name, tmp_path / "roots"),
    ):
        with pytest.raises(EnvbuildError) as caught:
            call()
        assert (caught.value.id, caught.value.exit) == ("bad-digest", Exit.VERIFY)
    assert os.listdir(tmp_path / "roots") == [".ssh"]


@pytest.mark.parametrize("hides", ["d/.wh..wh..opq", ".wh.d"])
@pytest.mark.parametrize("first", [True, False])
def test_a_whiteout_hides_what_is_below_its_layer_and_nothing_of_its_own(sandbox, tmp_path, hides, first):
    lower = tar(entry("d/old", b"1"), entry("d/x/old", b"1"), entry("d/y/old", b"1"))
    whiteout = [entry(hides, b"")]
    own = [entry("d/x/new", b"2"), entry("d/y", kind=tarfile.DIRTYPE), entry("d/y/new", b"2")]
    upper = tar(*(whiteout + own if first else own + whiteout))
    named = [(digest(layer), put(tmp_path, gzip.compress(layer))) for layer in (lower, upper)]
    root = unpack_flat(sandbox, named, tmp_path / "roots", progress=SilentProgress())
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {"d/x/new", "d/y/new"}


def test_whiteouts_are_applied_when_layers_are_flattened(sandbox, tmp_path):
    layers = [
        tar(
            entry("etc/keep", b"1"),
            entry("etc/gone", b"1"),
            entry("tree/a/b", b"1"),
            entry("opaque/old", b"1"),
            entry("lib", kind=tarfile.SYMTYPE, link="usr/lib"),
            entry("usr/lib/one", b"1"),
            entry("was-a-folder/x", b"1"),
        ),
        tar(
            entry("etc/.wh.gone", b""),
            entry(".wh.tree", b""),
            entry("opaque/new", b"2"),
            entry("opaque/.wh..wh..opq", b""),
            entry("lib/two", b"2"),
            entry("was-a-folder", b"2"),
        ),
        tar(entry("tree/c", b"3"), entry("etc/.wh.never-was", b"")),
    ]
    named = [(digest(layer), put(tmp_path, gzip.compress(layer))) for layer in layers]
    root = unpack_flat(sandbox, named, tmp_path / "roots", progress=SilentProgress())
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {"etc/keep", "tree/c", "opaque/new", "usr/lib/one", "usr/lib/two", "was-a-folder"}
    assert os.readlink(root / "lib") == "usr/lib"
    assert root.name == root_name([diff_id for diff_id, _ in named])


def test_a_whiteout_hides_the_file_where_layers_are_stacked(sandbox, root, tmp_path):
    """Each layer has a root of its own, and overlayfs puts them together."""
    layers = [
        tar(entry("gone", b"1"), entry("folder/gone", b"1"), entry("kept", b"1")),
        tar(entry(".wh.gone", b""), entry("folder/.wh.gone", b""), entry(".wh.never-was", b""), entry("kept", b"2"),
            entry(".wh.kept", b"")),
    ]  # fmt: skip
    named = [(digest(layer), put(tmp_path, gzip.compress(layer))) for layer in layers]
    lowers = unpack_layers(sandbox, named, tmp_path / "roots", jobs=2, progress=SilentProgress())
    script = "ls -A / /folder; cat /kept"
    with (tmp_path / "out").open("w+b") as out:
        command = Command(argv=("sh", "-c", script), env={"PATH": "/usr/bin"})
        assert sandbox.run(Rootfs(lowers=(root, *lowers)), command, stdout=out) == 0
        out.seek(0)
        seen = out.read().decode().split()
    assert not {"gone", "never-was"} & set(seen)
    assert {"folder", "kept"} < set(seen)
    assert seen[-1] == "2"


def test_the_name_of_a_flat_root_is_the_chain_id():
    # config.md, "Layer ChainID": ChainID(A|B) = Digest(ChainID(A) + " " + DiffID(B))
    a, b = digest(b"a"), digest(b"b")
    assert root_name([a]) == a.removeprefix("sha256:")
    assert root_name([a, b]) == hashlib.sha256(f"{a} {b}".encode()).hexdigest()


def nested(depth, name="d"):
    return entry("/".join([name] * depth), mode=0o755)


WHITEOUTS = {
    "of ..": [entry(".wh...", b"")],
    "of .. in a folder": [entry("a/.wh...", b"")],
    "of .": [entry(".wh..", b"")],
    "of nothing": [entry(".wh.", b"")],
    "of aufs": [entry(".wh..wh.plnk", mode=0o755)],
    "of a whiteout": [entry(".wh..wh.aufs", b"")],
    "that is a folder": [entry(".wh.a", mode=0o755)],
    "that is a link": [entry(".wh.a", kind=tarfile.SYMTYPE, link="/")],
    "with content": [entry(".wh.a", b"x")],
    "opaque with content": [entry("a/.wh..wh..opq", b"x")],
    "as a folder": [entry(".wh.a/b", b"")],
    "opaque as a folder": [entry("a/.wh..wh..opq/b", b"")],
}


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "stacked"])
@pytest.mark.parametrize("entries", WHITEOUTS.values(), ids=WHITEOUTS.keys())
def test_a_whiteout_that_hides_no_one_file_is_refused_and_takes_nothing(sandbox, tmp_path, entries, flat):
    neighbour = unpack_layer(sandbox, put(tmp_path, SAMPLE), digest(SAMPLE), tmp_path / "roots")
    lower, hostile = tar(entry("a/b", b"1")), tar(*entries)
    layers = [(digest(data), put(tmp_path, data)) for data in (lower, hostile)]
    unpacked = (
        partial(unpack_flat, sandbox, layers) if flat else partial(unpack_layers, sandbox, layers[1:], jobs=1)
    )
    with pytest.raises(EnvbuildError) as caught:
        unpacked(roots=tmp_path / "roots", progress=SilentProgress())
    assert (caught.value.id, caught.value.exit) == ("layer-hostile", Exit.VERIFY)
    assert os.listdir(tmp_path / "roots") == [neighbour.name]
    assert (neighbour / "usr/bin/tool").exists()


def test_an_opaque_root_is_refused_in_a_stack(sandbox, tmp_path):
    data = tar(entry("a", b""), entry(".wh..wh..opq", b""))
    with pytest.raises(EnvbuildError, match="whole root") as caught:
        unpack_layer(sandbox, put(tmp_path, data), digest(data), tmp_path / "roots")
    assert caught.value.id == "layer-hostile"


def test_what_an_opaque_folder_hides_is_hidden_in_a_stack_too(sandbox, root, tmp_path):
    layers = [
        tar(entry("one/old", b"1"), entry("two/old", b"1"), entry("three/old", b"1"), entry("four/old", b"1")),
        tar(entry("one/.wh..wh..opq", b""), entry("one/new", b"2"), entry("two/new", b"2"), entry(".wh.two", b""),
            entry(".wh.three", b""), entry("three/new", b"2"), entry(".wh.four", b""), entry("four", mode=0o755)),
    ]  # fmt: skip
    named = [(digest(layer), put(tmp_path, layer)) for layer in layers]
    lowers = unpack_layers(sandbox, named, tmp_path / "roots", jobs=1, progress=SilentProgress())
    with (tmp_path / "out").open("w+b") as out:
        command = Command(
            argv=("sh", "-c", "echo /one/* /two/* /three/*; ls -A /four"), env={"PATH": "/usr/bin"}
        )
        assert sandbox.run(Rootfs(lowers=(root, *lowers)), command, stdout=out) == 0
        out.seek(0)
        assert out.read().decode() == "/one/new /two/new /three/new\n"


TOO_MUCH = {
    "too deep": [nested(129)],
    "too deep by a link": [
        nested(100), entry("l", kind=tarfile.SYMTYPE, link="/".join("d" * 100)),
        entry("l/" + "/".join("e" * 29), b""),
    ],
    "too deep a link": [entry("l", kind=tarfile.SYMTYPE, link="/".join("d" * 200)), entry("l/x", b"")],
    "a name of 256 bytes": [entry("é" * 128, b"")],
    "a path of 3073 bytes": [entry("/".join(["x" * 200] * 16), b"")],
    "a file in place of the root": [entry(".", b"x")],
    "a link in place of the root": [entry("/", kind=tarfile.SYMTYPE, link="/etc")],
    "a hard link to a folder": [entry("d", mode=0o755), entry("h", kind=tarfile.LNKTYPE, link="d")],
    "a link without a target": [entry("l", kind=tarfile.SYMTYPE, link="")],
    "an extended attribute of 100 kB": [entry("f", b"", pax={"SCHILY.xattr.user.x": "v" * 100_000})],
    "an extended attribute without a name": [entry("f", b"", pax={"SCHILY.xattr.": "v"})],
}  # fmt: skip


@pytest.mark.parametrize("entries", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_entries_beyond_what_any_file_has_are_refused_and_leave_nothing(sandbox, tmp_path, entries):
    data = tar(*entries)
    with pytest.raises(EnvbuildError) as caught:
        unpack_layer(sandbox, put(tmp_path, data), digest(data), tmp_path / "roots")
    assert (caught.value.id, caught.value.exit) == ("layer-hostile", Exit.VERIFY)
    assert os.listdir(tmp_path / "roots") == []


def test_the_deepest_path_is_unpacked(sandbox, tmp_path):
    data = tar(nested(128))
    root = unpack_layer(sandbox, put(tmp_path, data), digest(data), tmp_path / "roots")
    assert (root / "/".join("d" * 128)).is_dir()


@pytest.mark.parametrize("name", ["srv", "srv/inner"])
def test_a_link_in_place_of_a_folder_gives_its_target_no_mode(sandbox, tmp_path, name):
    """Folders get their modes and times at the end, when one of them may be a link by now."""
    host = tmp_path / "host"
    (host / "inner").mkdir(parents=True)
    before = [(path.stat().st_mode, path.stat().st_mtime) for path in (host, host / "inner")]
    data = tar(
        entry("srv", mode=0o777),
        entry("srv/inner", mode=0o777),
        entry(name, kind=tarfile.SYMTYPE, link=str(host)),
    )
    unpack_layer(sandbox, put(tmp_path, data), digest(data), tmp_path / "roots")
    assert [(path.stat().st_mode, path.stat().st_mtime) for path in (host, host / "inner")] == before


def test_overlayfs_own_attributes_are_not_taken_from_a_layer(sandbox, tmp_path):
    pax = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.kept": "1"}
    data = tar(entry("f", b"", pax=pax))
    root = unpack_layer(sandbox, put(tmp_path, data), digest(data), tmp_path / "roots")
    assert os.listxattr(root / "f") == ["user.kept"]


@pytest.mark.timeout(30)
def test_a_size_of_an_exabyte_is_damage_and_found_at_once(sandbox, tmp_path):
    data = bytearray(tar(entry("a", b"x"), entry("b", b"y")))
    data[124:136] = b"\x80" + (1 << 70).to_bytes(11, "big")
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    blob = gzip.compress(bytes(data))
    with pytest.raises(EnvbuildError, match="size") as caught:
        unpack_layer(sandbox, put(tmp_path, blob), digest(bytes(data)), tmp_path / "roots")
    assert caught.value.id == "layer-damaged"
    assert os.listdir(tmp_path / "roots") == []
