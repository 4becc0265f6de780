"""What packages may bring: each path once, inside the prefix; anything else is refused before a file is linked."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from condapackage import File, Link, Package
from envworld import World, said

from envbuild.environment.conflicts import check_links
from envbuild.errors import EnvbuildError, Exit

MODULE = "lib/python3.11/site-packages/greet/__init__.py"


def refused(world: World, package: Package, data: bytes | None = None) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        world.create(world.with_package(package, data))
    assert not (world.folder / "env").exists()
    assert caught.value.hint
    return caught.value


def test_two_packages_with_different_files_of_one_name_are_refused_by_name(world: World) -> None:
    error = refused(
        world, Package(name="twin", version="1", files={"share/small/word": File(data=b"mine\n")})
    )
    assert (error.id, error.exit, error.where) == ("package-conflict", Exit.INPUT, "twin-1-0.conda")
    for text in ("libsmall-1.2.3-h2_1.conda", "twin-1-0.conda", "'share/small/word'"):
        assert text in error.message


def test_two_packages_with_the_same_file_are_linked(world: World) -> None:
    made = world.create(
        world.with_package(
            Package(name="twin", version="1", files={"share/small/word": File(data=b"hello\n")})
        )
    )
    assert said(made.prefix / "bin/greet") == "hello\n"


def test_a_module_for_any_platform_is_held_against_one_for_this(world: World) -> None:
    error = refused(world, Package(name="twin", version="1", files={MODULE: File(data=b"evil = 1\n")}))
    assert error.id == "package-conflict"
    assert "greet-0.5-pyhd8_0.conda" in error.message


def test_a_command_that_another_package_brings_is_refused(world: World) -> None:
    script = File(data=b"#!/bin/sh\n", mode=0o755)
    error = refused(world, Package(name="twin", version="1", files={"bin/greet": script}))
    assert (error.id, "'bin/greet'" in error.message) == ("package-conflict", True)


def test_links_of_one_name_with_two_targets_are_refused_and_with_one_are_linked(world: World) -> None:
    path = "lib/libsmall.so"
    error = refused(world, Package(name="twin", version="1", files={path: Link(target="libother.bin")}))
    assert error.id == "package-conflict"
    world.create(
        world.with_package(Package(name="twin", version="2", files={path: Link(target="libsmall.bin")}))
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [("share/é", "share/e\u0301"), ("share/small/word/x", "share/small/z"), ("share/small", "share/y")],
)
def test_names_that_cannot_be_beside_each_other_are_refused(world: World, first: str, second: str) -> None:
    files = {first: File(data=b"1"), second: File(data=b"2")}
    error = refused(world, Package(name="twin", version="1", files=files))
    assert error.id == "package-conflict"
    assert "twin-1-0.conda" in error.message


@pytest.mark.parametrize(
    "path",
    [
        *("../out", "a/../../out", "/out", "a//b", "./a", "a\nb", "conda-meta/libsmall-1.2.3-h2_1.json", "conda-meta"),
        *(".envbuild-unfinished/x", "a/" * 200 + "b", "n" * 256),
    ],
)  # fmt: skip
def test_a_path_that_no_package_may_have_is_refused_by_name(world: World, path: str) -> None:
    error = refused(world, Package(name="twin", version="1"), _listing(path))
    assert (error.id, error.exit, error.where) == ("package-hostile", Exit.VERIFY, "twin-1-0.conda")
    assert not (world.folder / "out").exists()


@pytest.mark.parametrize("target", ["../../host", "/etc", "../../../../../../../../../../etc"])
def test_a_link_out_of_the_prefix_is_refused(world: World, target: str) -> None:
    (world.folder / "host").mkdir()
    error = refused(world, Package(name="twin", version="1", files={"share/out": Link(target=target)}))
    assert (error.id, "share/out" in error.message) == ("package-hostile", True)


def test_nothing_is_written_through_a_link_out_of_the_prefix(world: World) -> None:
    """Also where the file that lies below the link comes with another package."""
    (world.folder / "host").mkdir()
    first = world.with_package(Package(name="alink", version="1", files={"zl": Link(target="../host")}))
    world = replace(world, lock=first)
    error = refused(world, Package(name="twin", version="1", files={"zl/f": File(data=b"evil")}))
    assert (error.id, error.where) == ("package-hostile", "alink-1-0.conda")
    assert list((world.folder / "host").iterdir()) == []


def test_a_file_below_a_link_counts_where_the_link_leads(world: World) -> None:
    world = replace(
        world,
        lock=world.with_package(Package(name="alink", version="1", files={"zl": Link(target="share/small")})),
    )
    error = refused(world, Package(name="twin", version="1", files={"zl/word": File(data=b"mine\n")}))
    assert (error.id, "'share/small/word'" in error.message) == ("package-conflict", True)


@pytest.mark.parametrize("place", ["below a link", "a link that is copied"])
def test_a_file_of_this_machine_does_not_come_into_the_environment(world: World, place: str) -> None:
    """A link that the package has and does not list is followed where what it lists is taken out of it."""
    host = world.folder / "host"
    host.mkdir()
    (host / "f").write_text("secret /a/placeholder")
    sha256 = hashlib.sha256((host / "f").read_bytes()).hexdigest()
    entry: dict[str, object] = {"path_type": "hardlink", "sha256": sha256, "size_in_bytes": 21}
    if place == "below a link":
        entry |= {"_path": "zl/f"}
        links = {"zl": str(host)}
    else:
        entry |= {"_path": "g", "prefix_placeholder": "/a/placeholder", "file_mode": "text"}
        links = {"g": str(host / "f")}
    data = _packed(_info(entry), links)
    error = refused(world, Package(name="twin", version="1"), data)
    assert (error.id, "leads out of the package" in error.message) == ("package-hostile", True)
    assert (host / "f").stat().st_nlink == 1


def test_a_link_that_is_there_twice_is_no_link(world: World) -> None:
    """Which of two targets counts depends on who unpacks: the one that was looked at may not be."""
    links = {"zl": "share/small", "././zl": "../host"}
    paths = [{"_path": "zl", "path_type": "softlink"}, {"_path": "zl/f", "sha256": "ab" * 32}]
    error = refused(world, Package(name="twin", version="1"), _packed(_info(*paths), links))
    assert (error.id, "twice" in error.message) == ("link-failed", True)


def test_links_to_what_every_machine_has_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "env/lib").mkdir(parents=True)
    (tmp_path / "env/mtab").symlink_to("/proc/mounts")
    (tmp_path / "env/lib/self").symlink_to("..")
    check_links(tmp_path / "env", tmp_path / "env/.work")
    (tmp_path / "env/chain").symlink_to("lib/self/../x")
    with pytest.raises(EnvbuildError, match="chain"):
        check_links(tmp_path / "env", tmp_path / "env/.work")


@pytest.mark.parametrize(
    "listed", [b"{", b'{"paths": 1}', b'{"paths": [{"_path": 1}]}', b"[" * 5000, b'{"paths": [{}]}']
)
def test_a_damaged_list_of_paths_is_refused_by_name(world: World, listed: bytes) -> None:
    error = refused(world, Package(name="twin", version="1"), _packed({"info/paths.json": listed}))
    assert (error.id, error.exit, error.where) == ("link-failed", Exit.VERIFY, "twin-1-0.conda")


def test_links_with_something_below_each_are_looked_at_once(world: World) -> None:
    paths = [
        {"_path": f"l{number}{below}", "path_type": kind, "sha256": "ab" * 32}
        for number in range(10_000)
        for below, kind in (("", "softlink"), ("/f", "hardlink"))
    ]
    paths.reverse()
    links = {f"l{number}": f"f{number}" for number in range(10_000)}
    info = {"info/paths.json": json.dumps({"paths": [*paths, {"_path": "l9999/g"}]}).encode()}
    links["l9999"] = "/etc"
    data = _packed(info, links)
    started = time.process_time()
    error = refused(world, Package(name="twin", version="1"), data)
    assert error.id == "package-hostile"
    assert time.process_time() - started < 8


def test_a_header_that_inflates_without_end_is_not_read(world: World) -> None:
    stream = io.BytesIO()
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 300 << 20
    stream.write(member.tobuf() + bytes(300 << 20))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as container:
        container.writestr("info-twin-1-0.tar.zst", zstandard.compress(stream.getvalue()))
    error = refused(world, Package(name="twin", version="1"), out.getvalue())
    assert (error.id, "claims" in error.message) == ("link-failed", True)


def _listing(path: str) -> bytes:
    """A package whose list names ``path``."""
    entry = {"_path": path, "path_type": "hardlink", "sha256": "ab" * 32, "size_in_bytes": 1}
    return _packed({"info/paths.json": json.dumps({"paths_version": 1, "paths": [entry]}).encode()})


def _info(*paths: Mapping[str, object]) -> dict[str, bytes]:
    index = {"name": "twin", "version": "1", "build": "0", "build_number": 0, "subdir": "linux-64"}
    listed = {"paths_version": 1, "paths": paths}
    return {
        "info/index.json": json.dumps({**index, "depends": []}).encode(),
        "info/paths.json": json.dumps(listed).encode(),
    }


def _packed(info: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A package of ``info`` and of symbolic links by their targets."""
    linked = io.BytesIO()
    with tarfile.open(fileobj=linked, mode="w") as archive:
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in info.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as container:
        container.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        container.writestr("info-twin-1-0.tar.zst", zstandard.compress(stream.getvalue()))
        container.writestr("pkg-twin-1-0.tar.zst", zstandard.compress(linked.getvalue()))
    return out.getvalue()
