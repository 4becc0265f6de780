"""Layers made of given files, the tar headers, and the virtual environment's frame."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuild.layers.files import FileEntry, files_tar, folder, symlink, venv_entries, write_files_layer
from envbuild.layers.format import MTIME
from envbuild.layers.tar import END, header
from envbuild.oci import digest as digests
from envbuild.oci.layout import Layout

LETTERS = st.characters(codec="utf-8", exclude_characters="/", exclude_categories=["Cc", "Cs"])
PARTS = st.text(LETTERS, min_size=1, max_size=90).filter(lambda part: part not in (".", ".."))
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)


def read(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return {member.name: member for member in tar}


def test_a_layer_of_files_says_what_was_given(tmp_path: Path) -> None:
    files = [
        FileEntry(path="workspace/notes.txt", content=b"hello\n", mode=0o640, uid=1000, gid=1000),
        symlink("usr/local/bin/tool", "/opt/venv/bin/tool"),
        folder("workspace", mode=0o2775, uid=1000, gid=1000),
        folder("home/envbuild", mode=0o700, uid=1000, gid=1000),
    ]
    layout = Layout.create(tmp_path)
    layer = write_files_layer("frame", files, layout)
    assert write_files_layer("frame", files[::-1], layout) == layer
    blob = layout.path(layer.digest).read_bytes()
    assert (layer.size, layer.diff_id) == (len(blob), digests.of_bytes(gzip.decompress(blob)))
    seen = read(gzip.decompress(blob))
    assert list(seen) == [
        "home", "home/envbuild", "usr", "usr/local", "usr/local/bin", "usr/local/bin/tool", "workspace",
        "workspace/notes.txt",
    ]  # fmt: skip
    assert {member.mtime for member in seen.values()} == {MTIME}
    assert (seen["home"].mode, seen["home"].uid, seen["home/envbuild"].mode) == (0o755, 0, 0o700)
    assert (seen["workspace"].mode, seen["workspace"].uid, seen["workspace"].gid) == (0o2775, 1000, 1000)
    assert (seen["usr/local/bin/tool"].issym(), seen["usr/local/bin/tool"].linkname) == (
        True,
        "/opt/venv/bin/tool",
    )
    assert (seen["workspace/notes.txt"].mode, seen["workspace/notes.txt"].size) == (0o640, 6)


@pytest.mark.parametrize(
    "files",
    [
        [FileEntry(path="a", content=b"1"), FileEntry(path="a", content=b"2")],
        [FileEntry(path="a", content=b"1"), FileEntry(path="a/b")],
        [symlink("a", "b"), FileEntry(path="a/b")],
    ],
)
def test_files_that_contradict_each_other_are_refused(files: list[FileEntry]) -> None:
    with pytest.raises(ValueError, match=r"twice|no directory"):
        list(files_tar(files))


@pytest.mark.parametrize("path", ["/a", "a/", "", "a//b", "../a", "a/./b"])
def test_a_path_that_is_not_clean_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="clean"):
        FileEntry(path=path)


@given(
    path=PATHS,
    kind=st.sampled_from(["file", "dir", "symlink"]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2097151),
)
def test_a_header_is_read_back_by_tarfile(path: str, kind: str, mode: int, uid: int) -> None:
    link = path if kind == "symlink" else ""
    (member,) = read(header(path, kind, mode=mode, link=link, uid=uid, gid=7) + END).values()
    assert (member.name, member.linkname, member.mode, member.uid, member.gid) == (path, link, mode, uid, 7)
    assert {"file": member.isreg, "dir": member.isdir, "symlink": member.issym}[kind]()


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 9 << 40])
def test_a_header_tells_sizes_beyond_eight_gib(size: int) -> None:
    with tarfile.open(fileobj=io.BytesIO(header("big", "file", mode=0o644, size=size)), mode="r:") as tar:
        assert tar.next().size == size


def test_short_names_need_no_pax_header() -> None:
    long = "d" * 120 + "/" + "f" * 100
    assert len(header("a" * 100, "file", mode=0o644)) == len(header(long, "file", mode=0o644)) == 512
    assert len(header("a" * 101, "file", mode=0o644)) == len(header("ü", "file", mode=0o644)) == 3 * 512


def test_the_environment_is_what_venv_makes(tmp_path: Path) -> None:
    """Compared with the running Python's own ``venv``: names, kinds, modes, links, and pyvenv.cfg line by line."""
    target = tmp_path / "opt/venv"
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", "--symlinks", target], check=True)
    real = f"python{sys.version_info.major}.{sys.version_info.minor}"
    wanted = {}
    for top, folders, files in os.walk(target):
        for name in (*folders, *files):
            path = Path(top) / name
            if not name.lower().startswith("activate"):
                link = os.readlink(path) if path.is_symlink() else ""
                wanted[str(path.relative_to(tmp_path)).replace(real, "python3.11")] = (
                    path.lstat().st_mode & 0o777,
                    "/usr/bin/python3.11" if link.startswith("/") else link.replace(real, "python3.11"),
                )
    version = ".".join(map(str, sys.version_info[:3]))
    tar = b"".join(files_tar(venv_entries(version)))
    seen = {name: (member.mode, member.linkname) for name, member in read(tar).items() if name.count("/") > 1}
    assert seen == wanted
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        config = opened.extractfile("opt/venv/pyvenv.cfg").read().decode()
    keys = [line.partition(" = ")[0] for line in (target / "pyvenv.cfg").read_text().splitlines()]
    assert [line.partition(" = ")[0] for line in config.splitlines()] == keys
    assert f"version = {version}\n" in config
