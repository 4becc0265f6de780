"""What a package or its scripts leave stays in the tree: files of this machine are neither read nor written."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from debmaker import deb, tar_of

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.base_pack import pack
from envbuild.layers.base_tree import fix_times, normalise, prepare
from envbuild.layers.licences import licences_of
from envbuild.lock.model import Artifact
from envbuild.oci.trees import DEEPEST
from envbuild.progress import SilentProgress
from envbuild.store import Store


def nothing(_amount):
    pass


@pytest.fixture
def host(tmp_path):
    """A folder that stands for this machine, outside of the tree."""
    folder = tmp_path / "host"
    for name in (
        "__pycache__/a.cpython-311.pyc",
        "ssh/ssh_host_rsa_key",
        "dpkg/status",
        "log/x",
        "secret",
        "passwd",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"of the host: {name}\n")
    (folder / "a.py").write_text("")
    (folder / "shadow").write_text("root:*:1:0:99999:7:::\n")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (1, 1))
    return folder


@pytest.fixture
def root(tmp_path):
    """A tree as dpkg leaves it, in short."""
    tree = tmp_path / "root"
    for name in ("usr/lib/python3.11", "etc/skel", "var/log", "var/tmp", "tmp", "root"):
        (tree / name).mkdir(parents=True)
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tree / "etc" / name).write_text(f"root:x:0:{name}\n")
    (tree / "etc/skel/.bashrc").write_text("# rc\n")
    return tree


def picture(folder):
    """Everything of a folder that can change."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime, content)
    return found


def replace(path: Path, target: str) -> None:
    """Put a link in place of whatever is there."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(path.name + ".was"))
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


HOSTILE = ("tree-hostile", Exit.VERIFY)


def outcome(step):
    """Whether it is done, or refused."""
    try:
        step()
    except EnvbuildError as error:
        return error.id, error.exit
    return "done"


FOLDERS = [
    "boot", "dev", "etc", "etc/skel", "etc/ssh", "home", "home/envbuild", "proc", "root", "run", "sys", "tmp", "usr",
    "usr/lib", "usr/lib/python3.11/__pycache__", "usr/sbin", "var", "var/cache", "var/cache/apt", "var/cache/debconf",
    "var/lib", "var/lib/dpkg", "var/log", "var/tmp",
]  # fmt: skip
FILES = [
    "etc/passwd",
    "etc/group",
    "etc/shadow",
    "etc/gshadow",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/hostname",
]


@pytest.mark.parametrize("style", ["absolute", "relative"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_link_to_a_folder_leads_nowhere_but_into_the_tree(host, root, name, style):
    up = "../" * 20
    replace(root / name, str(host) if style == "absolute" else up + str(host).lstrip("/"))
    before = picture(host)
    tree, tar = {"root": str(root)}, root.parent / "tar"
    assert outcome(lambda: normalise(tree, nothing)) in ("done", HOSTILE)
    assert outcome(lambda: fix_times(tree, nothing)) == "done"
    assert outcome(lambda: pack({**tree, "out": str(tar)}, nothing)) == "done"
    assert picture(host) == before
    assert b"of the host" not in tar.read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_a_file_is_not_written_through(host, root, name):
    replace(root / name, str(host / ("shadow" if "shadow" in name else "passwd")))
    before = picture(host)
    normalise({"root": str(root)}, nothing)
    assert picture(host) == before


def test_a_link_within_the_tree_is_as_good_as_a_folder(root):
    """The names are such as no machine has: were they followed there, nothing would be lost."""
    replace(root / "home", "/homes-of-the-tree")
    replace(root / "etc/skel", "/skeleton-of-the-tree")
    (root / "homes-of-the-tree").mkdir()
    (root / "skeleton-of-the-tree").mkdir()
    (root / "skeleton-of-the-tree/.profile").write_text("# p\n")
    normalise({"root": str(root)}, nothing)
    assert os.readlink(root / "home") == "/homes-of-the-tree"
    assert (root / "homes-of-the-tree/envbuild/.profile").read_text() == "# p\n"


def test_emptying_a_folder_that_is_a_link_does_not_empty_another_one(root):
    replace(root / "tmp", "etc")
    normalise({"root": str(root)}, nothing)
    assert (root / "etc/passwd").exists()


def special(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: it never ends
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    else:
        path.mkdir()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
@pytest.mark.parametrize("name", ["etc/passwd", "etc/shadow"])
def test_what_stands_in_for_a_table_of_users_is_refused_by_name(root, name, kind):
    special(root / name, kind)
    with pytest.raises(EnvbuildError, match=f"/{name}") as caught:
        normalise({"root": str(root)}, nothing)
    assert (caught.value.id, caught.value.exit) == ("tree-hostile", Exit.VERIFY)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_special_files_elsewhere_are_replaced_or_left_out(root, kind):
    for name in ("etc/hosts", "etc/resolv.conf", "etc/skel/special", "var/log/special"):
        special(root / name, kind)
    normalise({"root": str(root)}, nothing)
    assert (root / "etc/hosts").read_text().startswith("127.0.0.1")
    assert os.listdir(root / "home/envbuild") == [".bashrc"]
    assert os.listdir(root / "var/log") == []


def test_a_home_that_is_there_already_is_refused_and_no_skeleton_is_none(root):
    (root / "home/envbuild").mkdir(parents=True)
    with pytest.raises(EnvbuildError, match="/home/envbuild") as caught:
        normalise({"root": str(root)}, nothing)
    assert caught.value.id == "tree-hostile"
    (root / "home/envbuild").rmdir()
    (root / "etc/skel").rename(root / "etc/other")
    normalise({"root": str(root)}, nothing)
    assert os.listdir(root / "home/envbuild") == []


def test_a_tree_that_is_too_deep_is_refused_by_name(root):
    deepest = root / "/".join("d" * DEEPEST)
    deepest.mkdir(parents=True)
    normalise({"root": str(root)}, nothing)
    (deepest / "e").mkdir()
    for step in (
        lambda: fix_times({"root": str(root)}, nothing),
        lambda: pack({"root": str(root), "out": str(root.parent / "tar")}, nothing),
    ):
        with pytest.raises(EnvbuildError, match="129 folders deep") as caught:
            step()
        assert (caught.value.id, caught.value.exit) == ("tree-hostile", Exit.VERIFY)


@pytest.mark.parametrize("name", [".wh.etc", ".wh...", "usr/.wh..wh..opq"])
def test_a_name_that_would_hide_files_in_a_layer_is_refused(root, name):
    (root / name).write_text("")
    with pytest.raises(EnvbuildError, match="hides files") as caught:
        pack({"root": str(root), "out": str(root.parent / "tar")}, nothing)
    assert caught.value.id == "tree-hostile"


LINKS = {
    "dpkg's status": {"var/lib/dpkg/status": "{host}/dpkg/status"},
    "dpkg's folder": {"var/lib/dpkg": "{host}/dpkg"},
    "var": {"var": "{host}"},
    "policy-rc.d": {"usr/sbin/policy-rc.d": "{host}/secret"},
    "dpkg's settings": {"etc/dpkg/dpkg.cfg.d": "{host}"},
    "usr/sbin": {"sbin": "{host}"},
}


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS.keys())
def test_what_a_package_links_is_not_written_through_while_dpkg_is_set_up(tmp_path, host, links):
    files = {name: target.format(host=host) for name, target in links.items()}
    (tmp_path / "x.deb").write_bytes(deb("Package: t\n", files))
    before = picture(host)
    arguments = {"root": str(tmp_path / "root"), "essential": [[str(tmp_path / "x.deb"), "t.deb"]]}
    assert outcome(lambda: prepare(arguments, nothing)) in ("done", HOSTILE)
    assert picture(host) == before


def test_a_folder_that_a_link_replaced_does_not_get_its_mode(tmp_path, host, sandbox):
    """The later of two packages replaces a folder of the first: modes and times are set at the end."""
    for number, files in enumerate([{"srv": None, "srv/inner": None}, {"srv/inner": str(host)}]):
        (tmp_path / f"{number}.deb").write_bytes(deb("Package: t\n", files))
    before = picture(host)
    essential = [[str(tmp_path / f"{number}.deb"), f"{number}.deb"] for number in range(2)]
    prepare({"root": str(tmp_path / "root"), "essential": essential}, nothing)
    assert picture(host) == before


BAD = {
    "an entry that leads out": tar_of({"../x": b"x"}),
    "an entry of 2^70 bytes": tar_of({"a": b"x"})[:124] + b"\x80" + (1 << 70).to_bytes(11, "big"),
    "a cut tar": tar_of({"a": b"x" * 5000})[:3000],
    "no end": tar_of({"a": b"x"})[:1024],
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_package_with_a_damaged_tar_is_refused_by_name(tmp_path, data):
    whole = deb("Package: t\n", {}, "")
    start = whole.index(b"data.tar")
    header = whole[start : start + 60]
    header = header[:48] + f"{len(data):<10}".encode() + header[58:]
    (tmp_path / "x.deb").write_bytes(whole[:start] + header + data)
    with pytest.raises(EnvbuildError, match=r"tool_1\.deb") as caught:
        prepare(
            {"root": str(tmp_path / "root"), "essential": [[str(tmp_path / "x.deb"), "tool_1.deb"]]}, nothing
        )
    assert (caught.value.id, caught.value.exit) == ("deb-damaged", Exit.VERIFY)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_a_copyright_in_the_base_is_read_in_the_base_or_not_at_all(tmp_path, kind):
    base = tmp_path / "base"
    secret = tmp_path / "host" / "tool"
    secret.mkdir(parents=True)
    (secret / "copyright").write_text(COPYRIGHT)
    if kind == "folder link":
        (base / "usr/share").mkdir(parents=True)
        (base / "usr/share/doc").symlink_to(tmp_path / "host")
    else:
        (base / "usr/share/doc/tool").mkdir(parents=True)
        if kind == "pipe":
            os.mkfifo(base / "usr/share/doc/tool/copyright")
        else:
            (base / "usr/share/doc/tool/copyright").symlink_to(secret / "copyright")
    with Store.open(tmp_path / "store") as store:
        data = deb("Package: tool\n", {})
        (tmp_path / "x").write_bytes(data)
        item = Artifact(
            kind="deb", name="tool", version="1", file="tool_1.deb", size=len(data),
            sha256=store.adopt(tmp_path / "x"), index="debian/x/main",
        )  # fmt: skip
        assert licences_of([item], store, SilentProgress(), base=base) == {}


COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: somebody
License: MIT
"""
