"""Preparing, normalising and packing a tree, on small trees (as root: owners matter)."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile

import pytest
from debmaker import deb

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.base import build_base
from envbuild.layers.base_pack import pack
from envbuild.layers.base_tree import normalise, prepare
from envbuild.layers.format import MTIME
from envbuild.lock.model import Artifact
from envbuild.progress import SilentProgress
from envbuild.sandbox.unpack import unpack_layer
from envbuild.store import Store


def nothing(_amount):
    pass


def artifact(name, data):
    sha256 = hashlib.sha256(data).hexdigest()
    return Artifact(
        kind="deb",
        name=name,
        version="1",
        file=f"pool/{name}_1.deb",
        size=len(data),
        sha256=sha256,
        index="debian/x/main",
    )


def write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def tree(root):
    """What a configured root looks like, with everything that differs between two builds."""
    write(root / "etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
    write(root / "etc/group", "root:x:0:\n")
    write(root / "etc/shadow", "root:*:20777:0:99999:7:::\ndaemon:*:20777:0:99999:7:::\n", 0o640)
    write(root / "etc/gshadow", "root:*::\n", 0o640)
    write(root / "etc/skel/.bashrc", "# rc\n")
    write(root / "usr/lib/python3.11/os.py", "x = 1\n")
    write(root / "usr/lib/python3.11/__pycache__/os.cpython-311.pyc", "stale")
    write(root / "usr/lib/python3/dist-packages/m/__init__.py", "")
    write(root / "usr/lib/python3/dist-packages/m/__pycache__/__init__.cpython-311.pyc", "stale")
    write(root / "usr/lib/python3.11/never.py", "x = 1\n")
    (root / "etc/resolv.conf").symlink_to("/run/resolv.conf")
    for leak in LEAKS:
        write(root / leak, "leak")


LEAKS = [
    "etc/machine-id", "etc/passwd-", "etc/shadow-", "etc/.pwd.lock", "etc/ssh/ssh_host_rsa_key", "etc/hostname",
    "etc/ssh/ssh_host_rsa_key.pub", "run/utmp", "tmp/x/y", "usr/sbin/policy-rc.d", "var/cache/apt/pkgcache.bin",
    "var/cache/debconf/config.dat-old", "var/cache/ldconfig/aux-cache", "var/lib/apt/lists/Packages",
    "var/lib/dpkg/status-old", "var/lib/dpkg/lock", "var/lib/systemd/random-seed", "var/log/apt/term.log",
    "var/log/dpkg.log", "var/log/lastlog", "var/tmp/.hidden", "root/.cache/x",
]  # fmt: skip


def test_what_differs_between_builds_is_removed(tmp_path):
    tree(tmp_path)
    stale = normalise({"root": str(tmp_path)}, nothing)
    assert stale == ["/usr/lib/python3.11/os.py", "/usr/lib/python3/dist-packages/m/__init__.py"]
    assert [leak for leak in LEAKS if (tmp_path / leak).exists()] == []
    assert list(tmp_path.rglob("*.pyc")) == []
    for kept in ("run", "tmp", "var/tmp", "var/log/apt", "var/cache/apt"):
        assert (tmp_path / kept).is_dir()
    assert {path.lstat().st_mtime for path in [tmp_path, *tmp_path.rglob("*")]} == {MTIME}


def test_the_clients_of_rsh_are_not_set_uid_and_other_programs_stay_so(tmp_path):
    tree(tmp_path)
    write(tmp_path / "usr/bin/netkit-rsh", "x", 0o4755)
    write(tmp_path / "usr/bin/su", "x", 0o4755)
    normalise({"root": str(tmp_path)}, nothing)
    assert (tmp_path / "usr/bin/netkit-rsh").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "usr/bin/su").stat().st_mode & 0o7777 == 0o4755


def test_the_user_and_the_files_that_engines_replace(tmp_path):
    tree(tmp_path)
    normalise({"root": str(tmp_path)}, nothing)
    assert (tmp_path / "etc/passwd").read_text().splitlines()[
        -1
    ] == "envbuild:x:1000:1000::/home/envbuild:/bin/bash"
    assert (tmp_path / "etc/shadow").read_text() == (
        "root:*:18262:0:99999:7:::\ndaemon:*:18262:0:99999:7:::\nenvbuild:*:18262:0:99999:7:::\n"
    )
    assert (tmp_path / "etc/shadow").stat().st_mode & 0o777 == 0o640
    bashrc = (tmp_path / "home/envbuild/.bashrc").stat()
    assert (bashrc.st_uid, bashrc.st_gid) == (1000, 1000)
    assert "127.0.0.1\tlocalhost" in (tmp_path / "etc/hosts").read_text()
    assert not (tmp_path / "etc/resolv.conf").is_symlink()
    assert (tmp_path / "etc/resolv.conf").read_text() == ""


def test_packing_is_sorted_keeps_links_and_owners_and_is_the_same_whatever_the_order(tmp_path, sandbox):
    digests = []
    for number, order in enumerate((sorted, lambda names: sorted(names, reverse=True))):
        root = tmp_path / f"root{number}"
        (root / "d").mkdir(parents=True)
        for name in order(["d/b", "a", "d.x", "é", "d/" + "long" * 40]):
            write(root / name, name, 0o4711 if name == "a" else 0o600)
        os.link(root / "d/b", root / "d/hard")
        os.symlink("../a", root / "d/soft")
        os.mkfifo(root / "pipe")
        os.chown(root / "d.x", 1000, 8)
        os.utime(root / "a", (number, number))
        packed = pack({"root": str(root), "out": str(tmp_path / f"{number}.tar")}, nothing)
        digests.append(packed["diff_id"])
    assert digests[0] == digests[1]
    with tarfile.open(tmp_path / "0.tar") as archive:
        entries = {entry.name: entry for entry in archive}
    assert list(entries) == ["a", "d", "d/b", "d/hard", "d/" + "long" * 40, "d/soft", "d.x", "é"]
    assert (entries["d/hard"].islnk(), entries["d/hard"].linkname) == (True, "d/b")
    assert entries["d/soft"].linkname == "../a"
    assert (entries["d.x"].uid, entries["d.x"].gid, entries["a"].mode) == (1000, 8, 0o4711)
    assert {entry.mtime for entry in entries.values()} == {MTIME}
    root = unpack_layer(sandbox, tmp_path / "1.tar", digests[0], tmp_path / "roots")
    assert pack({"root": str(root), "out": str(tmp_path / "again.tar")}, nothing)["diff_id"] == digests[0]


def test_essential_packages_are_unpacked_into_a_merged_usr(tmp_path):
    files = {
        "bin": None,
        "bin/tool": b"x",
        "lib64/ld.so": b"y",
        "usr/share/doc/t/README": b"left out",
        "usr/share/doc/t/copyright": b"kept",
        "usr/share/man/man1/t.1.gz": b"left out",
        "usr/bin/awk": "/etc/alternatives/awk",
    }
    (tmp_path / "x.deb").write_bytes(deb("Package: t\n", files))
    root = tmp_path / "root"
    prepare({"root": str(root), "essential": [[str(tmp_path / "x.deb"), "x.deb"]]}, nothing)
    assert os.readlink(root / "bin") == "usr/bin"
    assert (root / "usr/bin/tool").read_bytes() == b"x"
    assert (root / "usr/lib64/ld.so").read_bytes() == b"y"
    assert os.readlink(root / "usr/bin/awk") == "/etc/alternatives/awk"
    assert sorted(os.listdir(root / "usr/share/doc/t")) == ["copyright"]
    assert not (root / "usr/share/man/man1/t.1.gz").exists()
    assert "path-exclude=/usr/share/man/*" in (root / "etc/dpkg/dpkg.cfg.d/envbuild").read_text().splitlines()


@pytest.mark.parametrize(
    ("data", "id", "code"),
    [
        (b"damaged", "deb-damaged", Exit.VERIFY),
        (deb("Package: t\nEssential: yes\n", {}), "base-not-debian", Exit.INPUT),
    ],
)
def test_sets_that_cannot_become_a_base(tmp_path, sandbox, data, id, code):
    (tmp_path / "x").write_bytes(data)
    store = Store.open(tmp_path / "store")
    with pytest.raises(EnvbuildError) as caught:
        build_base(
            [(artifact("t", data), tmp_path / "x")], sandbox=sandbox, store=store, progress=SilentProgress()
        )
    assert (caught.value.id, caught.value.exit) == (id, code)
    assert [path for path in (tmp_path / "store/tmp").iterdir() if path.is_dir()] == []


def test_trees_of_builds_that_died_are_removed_and_those_of_others_are_not(tmp_path, sandbox):
    store = Store.open(tmp_path / "store")
    dead, stranger = (store.root / "tmp" / f"scratch-base-{end}" for end in ("0" * 12, "mine"))
    stranger.mkdir()
    (dead / "root/etc").mkdir(parents=True)
    os.chown(dead / "root/etc", 1000, 1000)
    data = deb("Package: t\nEssential: yes\n", {})
    (tmp_path / "x").write_bytes(data)
    with store.scratch("base") as alive:
        with pytest.raises(EnvbuildError, match="dpkg"):
            build_base(
                [(artifact("t", data), tmp_path / "x")],
                sandbox=sandbox,
                store=store,
                progress=SilentProgress(),
            )
        assert alive.is_dir()
    assert not dead.exists()
    assert stranger.is_dir()


def test_a_layer_of_a_small_tree_reads_like_any_other(tmp_path):
    write(tmp_path / "root/a", "x" * 1000)
    pack({"root": str(tmp_path / "root"), "out": str(tmp_path / "t.tar")}, nothing)
    data = (tmp_path / "t.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(gzip.compress(data)), mode="r:gz") as archive:
        assert archive.extractfile("a").read() == b"x" * 1000
