"""The same as an ordinary user: user namespaces with subordinate ids, and what is said where they cannot be had."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox.ids import subordinate_ids

PRELUDE = """
import os, sys
from pathlib import Path
from envbuild.errors import EnvbuildError
from envbuild.sandbox import *
from envbuild.sandbox.unpack import unpack_layer
ENV = {"PATH": "/usr/bin"}
work = Path(sys.argv[1])
def sh(script, rootfs, **fields):
    return Sandbox.detect().run(rootfs, Command(argv=("sh", "-c", script), env=ENV, **fields))
"""


@pytest.fixture
def work(unprivileged, root):
    """A folder of the user with the layer of a tiny root in it."""
    folder = unprivileged.home / "sandbox-test"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    stream = io.BytesIO()

    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid, info.gid = (1000, 1000) if info.name.endswith("etc/passwd") else (0, 0)
        return info

    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(root, arcname=".", filter=owned)
    (folder / "layer").write_bytes(gzip.compress(stream.getvalue(), 1))
    (folder / "diff_id").write_text("sha256:" + hashlib.sha256(stream.getvalue()).hexdigest())
    folder.chmod(0o700)
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, unprivileged.name, unprivileged.name)
    yield folder
    shutil.rmtree(folder)


UNPACK = """
lower = unpack_layer(Sandbox.detect(), work / "layer", (work / "diff_id").read_text(), work / "roots")
"""


def test_a_layer_is_unpacked_and_run_with_its_owners(unprivileged, work):
    code = (
        PRELUDE
        + UNPACK
        + """
sh("id -u; stat -c %u:%g /etc/passwd /usr/bin/sh; touch /usr/new && echo written", Rootfs(lowers=(lower,)))
script = "id -u; touch /usr/x 2>/dev/null || echo refused; touch /tmp/x && echo tmp"
sh(script, Rootfs(lowers=(lower,)), uid=1000, gid=1000)
sys.exit(sh("chown 7:8 /etc/passwd; rm -r /etc; mkdir /etc; kill -9 $$", Rootfs(lowers=(lower,))))
"""
    )
    done = unprivileged.run(code, str(work))
    assert done.stdout == "0\n1000:1000\n0:0\nwritten\n1000\nrefused\ntmp\n", done.stderr
    assert done.returncode == 137
    owner = next((work / "roots").iterdir()).joinpath("etc/passwd").stat().st_uid
    assert owner > 65535  # outside it is one of the user's subordinate ids


def test_a_whiteout_hides_the_file_of_the_layer_below(unprivileged, work):
    with tarfile.open(work / "hides", "w") as archive:
        archive.addfile(tarfile.TarInfo("etc/.wh.passwd"))
    code = (
        PRELUDE
        + UNPACK
        + """
import hashlib
blob = work / "hides"
above = unpack_layer(Sandbox.detect(), blob, "sha256:" + hashlib.sha256(blob.read_bytes()).hexdigest(), work / "roots")
print(*(sh("test -e /etc/passwd", Rootfs(lowers=lowers)) for lowers in ((lower,), (lower, above))))
"""
    )
    done = unprivileged.run(code, str(work))
    assert done.stdout == "0 1\n", done.stderr


def test_trees_of_other_owners_can_be_removed(unprivileged, work):
    code = (
        PRELUDE
        + UNPACK
        + """
upper = work / "upper"
assert sh("mkdir -m 0 /closed; echo x >/var; chown 1000 /var /closed", Rootfs(lowers=(lower,), upper=upper)) == 0
for path in (upper, work / "upper.work", work / "roots"):
    Sandbox.detect().remove(path)
print(sorted(os.listdir(work)))
"""
    )
    done = unprivileged.run(code, str(work))
    assert done.stdout == "['diff_id', 'layer']\n", done.stderr


def test_no_network_devices_and_shm_as_for_root(unprivileged, work):
    code = (
        PRELUDE
        + UNPACK
        + """
script = "cat /proc/net/fib_trie; dd if=/dev/zero of=/dev/shm/x bs=1M count=3; hostname; echo $$"
sh(script, Rootfs(lowers=(lower,)))
"""
    )
    done = unprivileged.run(code, str(work))
    assert "127.0.0.1" in done.stdout, done.stderr
    assert done.stdout.endswith("envbuild\n2\n")


def test_without_newuidmap_the_error_says_what_to_install(unprivileged, tmp_path):
    code = "from envbuild.sandbox import Sandbox\ntry: Sandbox.detect()\n"
    code += "except Exception as e: print(e, '|', e.hint, int(e.exit))"
    done = unprivileged.run(code, env={"PATH": str(tmp_path)})
    assert "newuidmap" in done.stdout, done.stderr
    assert "apt-get install uidmap" in done.stdout
    assert done.stdout.endswith("7\n")


@pytest.mark.needs("newuidmap")
@pytest.mark.parametrize("text", ["", "other:100000:65536\n", "root:100000:1000\n", "broken\nroot:x:y\n"])
def test_without_ranges_the_error_says_what_to_configure(tmp_path, text):
    (tmp_path / "subuid").write_text(text)
    (tmp_path / "subgid").write_text("root:300000:65536\n")
    with pytest.raises(EnvbuildError) as caught:
        subordinate_ids(uid=0, gid=0, subuid=tmp_path / "subuid", subgid=tmp_path / "subgid")
    assert caught.value.exit is Exit.ENGINE
    assert "usermod --add-subuids" in caught.value.hint
    assert str(tmp_path / "subuid") in caught.value.message
    assert str(tmp_path / "subgid") not in caught.value.message


@pytest.mark.needs("newuidmap")
def test_ranges_by_name_or_number_become_maps(tmp_path):
    (tmp_path / "subuid").write_text("root:5:10\n0:300000:65536\nroot:400000:65536\n")
    (tmp_path / "subgid").write_text("root:500000:65535")
    maps = subordinate_ids(uid=0, gid=0, subuid=tmp_path / "subuid", subgid=tmp_path / "subgid")
    assert maps.uids == (0, 0, 1, 1, 300000, 65535)
    assert maps.gids == (0, 0, 1, 1, 500000, 65535)


def test_where_the_kernel_forbids_namespaces_the_error_says_so(unprivileged):
    # Inside a namespace whose own limit is 0 nobody can make another one: what a hardened machine looks like.
    code = """
import os, subprocess, sys
inner = '''
from envbuild.sandbox import Sandbox
try: Sandbox.detect()
except Exception as e: print(e.id, "|", e.hint, "|", int(e.exit))
'''
sys_user = "/proc/sys/user/max_"
script = f'echo 0 >{sys_user}user_namespaces; echo 0 >{sys_user}mnt_namespaces; exec "$0" -c "$1"'
command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, inner]
sys.exit(subprocess.run(command).returncode)
"""
    done = unprivileged.run(code)
    assert done.returncode == 0, done.stderr
    identity, hint, number = done.stdout.strip().split(" | ")
    assert identity.startswith("sandbox-")
    assert "root" in hint
    assert number == "7"


def test_the_fixture_really_is_unprivileged(unprivileged):
    done = unprivileged.run("import os; print(os.getuid() != 0, os.access('/etc/shadow', os.R_OK))")
    assert done.stdout == "True False\n"
    assert Path("/etc/shadow").exists()
    assert os.getuid() == 0
