"""Wheels and source distributions are unpacked where they belong and nowhere else."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from nativemaker import make_sdist, make_wheel

from envbuild.errors import EnvbuildError, Exit
from envbuild.native.archives import MTIME, unpack_sdist, unpack_wheel


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
