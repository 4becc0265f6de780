"""Wheels and source distributions are unpacked where they belong and nowhere else."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from nativemaker import make_deb, make_sdist, make_wheel

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact
from envbuild.native.archives import MTIME, members, unpack_sdist, unpack_wheel


def test_a_wheel_lands_in_site_packages_with_constant_times(tmp_path: Path) -> None:
    files = {
        "torch/a.h": b"a",
        "torch-1.data/platlib/torch/b.so": b"b",
        "torch-1.data/scripts/torchrun": b"c",
    }
    seen: list[int] = []
    unpack_wheel("torch.whl", make_wheel(tmp_path / "torch.whl", files), tmp_path / "site", seen.append)
    found = {str(p.relative_to(tmp_path / "site")): p for p in (tmp_path / "site").rglob("*") if p.is_file()}
    assert sorted(found) == ["torch/a.h", "torch/b.so"]
    assert {path.stat().st_mtime for path in found.values()} == {MTIME}
    assert sum(seen) == 2


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\..\\x", "w-1.data/purelib/../../x"])
def test_a_wheel_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    wheel = make_wheel(tmp_path / "w.whl", {name: b"x"})
    with pytest.raises(EnvbuildError, match=r"w\.whl") as caught:
        unpack_wheel("w.whl", wheel, tmp_path / "deep" / "site", lambda amount: None)
    assert caught.value.exit == Exit.VERIFY
    assert not list(tmp_path.rglob("x"))


def test_a_flipped_byte_in_a_wheel_is_noticed(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", {"a.py": b"print('hello, world')" * 50})
    data = bytearray(wheel.read_bytes())
    data[45] ^= 0x10
    wheel.write_bytes(data)
    with pytest.raises(EnvbuildError, match=r"w\.whl"):
        unpack_wheel("w.whl", wheel, tmp_path / "site", lambda amount: None)


def test_a_source_distribution_lies_directly_in_the_folder(tmp_path: Path) -> None:
    sdist = make_sdist(tmp_path / "d.tar.gz", {"setup.py": "pass", "csrc/a.cu": "x"})
    unpack_sdist("d.tar.gz", sdist, tmp_path / "src")
    assert (tmp_path / "src" / "csrc" / "a.cu").read_text() == "x"
    assert (tmp_path / "src" / "setup.py").stat().st_mtime == MTIME


def hostile(path: Path, name: str, link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in ("d/setup.py", name):
            info = tarfile.TarInfo(member)
            if link and member == name:
                info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info, io.BytesIO(b""))
    return path


@pytest.mark.parametrize(("name", "link"), [("d/../../x", None), ("d/x", "/etc/passwd"), ("d/x", "../../up")])
def test_a_source_distribution_that_leads_out_is_refused(tmp_path: Path, name: str, link: str | None) -> None:
    with pytest.raises(EnvbuildError, match=r"d\.tar\.gz") as caught:
        unpack_sdist("d.tar.gz", hostile(tmp_path / "d.tar.gz", name, link), tmp_path / "deep" / "src")
    assert caught.value.exit == Exit.VERIFY


def test_a_source_distribution_without_setup_py_is_refused(tmp_path: Path) -> None:
    sdist = make_sdist(tmp_path / "d.tar.gz", {"README": ""})
    with pytest.raises(EnvbuildError, match=r"no setup\.py"):
        unpack_sdist("d.tar.gz", sdist, tmp_path / "src")


def tar_gz(path: Path, *entries: tuple[str, bytes], cut: int = 0) -> Path:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = stream.getvalue()
    path.write_bytes(gzip.compress(data[: len(data) - cut]))
    return path


def huge(path: Path) -> Path:
    data = bytearray(gzip.decompress(tar_gz(path, ("d/other", b"x")).read_bytes()))
    data[124:136] = b"\x80" + (1 << 70).to_bytes(11, "big")
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(gzip.compress(bytes(data)))
    return path


DEEP = "d/" + "/".join("e" * 129)
SDISTS = {
    "a skipped entry of 2^70 bytes": huge,
    "a member 130 folders deep": lambda path: tar_gz(path, ("d/setup.py", b""), (DEEP, b"")),
    "a name of 256 bytes": lambda path: tar_gz(path, ("d/setup.py", b""), ("d/" + "x" * 256, b"")),
    "no end": lambda path: tar_gz(path, ("d/setup.py", b""), cut=9728),
    "a file as a folder": lambda path: tar_gz(path, ("d/setup.py", b""), ("d/setup.py/x", b"")),
    "a folder as a file": lambda path: tar_gz(path, ("d/setup.py/x", b""), ("d/setup.py", b"")),
    "no gzip": lambda path: path.write_bytes(b"hello") and path,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", SDISTS.values(), ids=SDISTS.keys())
def test_a_source_distribution_that_is_damaged_or_beyond_bounds_is_refused(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    with pytest.raises(EnvbuildError, match=r"d\.tar\.gz") as caught:
        unpack_sdist("d.tar.gz", make(tmp_path / "d.tar.gz"), tmp_path / "src")
    assert (caught.value.id, caught.value.exit) == ("bad-toolchain-artifact", Exit.VERIFY)


@pytest.mark.parametrize("names", [[DEEP], ["x" * 256], ["a", "a/b"], ["a/b", "a"]], ids=str)
def test_a_wheel_beyond_bounds_or_with_two_files_at_one_place_is_refused(
    tmp_path: Path, names: list[str]
) -> None:
    wheel = make_wheel(tmp_path / "w.whl", dict.fromkeys(names, b"x"))
    with pytest.raises(EnvbuildError, match=r"w\.whl") as caught:
        unpack_wheel("w.whl", wheel, tmp_path / "site", lambda amount: None)
    assert (caught.value.id, caught.value.exit) == ("bad-toolchain-artifact", Exit.VERIFY)


def test_a_member_whose_content_is_damaged_is_refused_when_it_is_read(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", {"a.h": b"int a;" * 50})
    data = bytearray(wheel.read_bytes())
    data[40] ^= 0x10
    wheel.write_bytes(data)
    artifact = Artifact(kind="wheel", name="w", version="1", file="w.whl", size=1, sha256="0" * 64, index="x")
    with pytest.raises(EnvbuildError, match=r"w\.whl") as caught:
        [member.read() for member in members(artifact, wheel)]
    assert (caught.value.id, caught.value.exit) == ("bad-toolchain-artifact", Exit.VERIFY)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("size", ["-60", "0x10", "", "9999999999"])
def test_a_package_whose_archive_states_an_odd_size_is_refused(tmp_path: Path, size: str) -> None:
    path = make_deb(tmp_path / "t.deb", {"a": b"x"})
    data = path.read_bytes()
    start = data.index(b"!<arch>\n") + 8
    path.write_bytes(data[: start + 48] + size.ljust(10).encode() + data[start + 58 :])
    artifact = Artifact(kind="deb", name="t", version="1", file="t.deb", size=1, sha256="0" * 64, index="x")
    with pytest.raises(EnvbuildError, match=r"t\.deb") as caught:
        list(members(artifact, path))
    assert (caught.value.id, caught.value.exit) == ("bad-toolchain-artifact", Exit.VERIFY)
