"""The real base: what is in it, what is not, and that its bytes depend on the packages only."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import struct
import tarfile
import time

import pytest

from envbuild.layers.base import build_base
from envbuild.layers.format import MTIME
from envbuild.progress import SilentProgress
from envbuild.sandbox import Command, Rootfs

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.timeout(1800)]
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def run(base, sandbox, tmp_path, script, **fields):
    command = Command(argv=("sh", "-ec", script), env=ENV, **fields)
    with open(tmp_path / "out", "w+b") as out:
        code = sandbox.run(Rootfs(lowers=(base.root,)), command, stdout=out, stderr=out)
        out.seek(0)
        return code, out.read().decode()


def test_the_layer_is_what_it_says(base):
    blob = base.store.layout.path(base.layer.digest)
    assert blob.stat().st_size == base.layer.size
    assert "sha256:" + hashlib.sha256(blob.read_bytes()).hexdigest() == base.layer.digest
    plain = hashlib.sha256()
    with gzip.open(blob) as stream:
        while data := stream.read(1 << 20):
            plain.update(data)
    assert f"sha256:{plain.hexdigest()}" == base.layer.diff_id
    assert base.root.name == plain.hexdigest()


def test_a_second_build_takes_it_from_the_store(base, sandbox):
    started = set(base.store.roots.iterdir())
    again = build_base(base.debs, sandbox=sandbox, store=base.store, progress=SilentProgress())
    assert again == base.layer
    assert set(base.store.roots.iterdir()) == started


def test_what_users_need_works(base, sandbox, tmp_path):
    script = """
    python3.11 -c 'import ssl, sqlite3, ctypes, lzma, bz2, venv, curses, sys; print(sys.version_info[:2])'
    . /etc/os-release; echo $ID $VERSION_ID
    printf '#include <Python.h>\\nint main(void) { Py_Initialize(); return !Py_IsInitialized(); }' >/tmp/x.c
    include=$(python3.11 -c 'import sysconfig; print(sysconfig.get_path("include"))')
    gcc -x c -I$include /tmp/x.c -lpython3.11 -o /root/x
    /root/x && echo compiled
    tini -s -- true && echo tini
    test -s /etc/ssl/certs/ca-certificates.crt && echo certificates
    dpkg --audit; dpkg-query -W -f '${db:Status-Status}\\n' | sort -u
    test -e /usr/lib/python3.11/EXTERNALLY-MANAGED && echo managed
    """
    code, text = run(base, sandbox, tmp_path, script)
    assert text.splitlines() == [
        "(3, 11)", "debian 12", "compiled", "tini", "certificates", "installed", "managed"
    ]  # fmt: skip
    assert code == 0


def test_the_user_besides_root(base, sandbox, tmp_path):
    script = "id; cd; pwd; touch file; ls -A; test -w /etc/passwd || echo safe"
    home = "/home/envbuild"
    command = {"uid": 1000, "gid": 1000, "cwd": home}
    code, text = run(base, sandbox, tmp_path, f"HOME={home}; {script}", **command)
    lines = text.splitlines()
    assert code == 0
    assert lines[0].startswith("uid=1000(envbuild) gid=1000(envbuild) groups=1000(envbuild)")
    assert lines[1] == home
    assert lines[-1] == "safe"


def test_files_of_packages_are_unchanged(base, sandbox, tmp_path):
    # dpkg --verify prints what differs from the packages' md5sums; documentation is left out on purpose.
    _, text = run(base, sandbox, tmp_path, "dpkg --verify || true")
    left = [line for line in text.splitlines() if not line.startswith("missing") and " c /etc/" not in line]
    assert left == []
    missing = {
        line.split("/usr/share/")[-1].split("/")[0]
        for line in text.splitlines()
        if line.startswith("missing")
    }
    assert missing <= {"doc", "groff", "info", "lintian", "locale", "man"}


def test_byte_code_of_the_distribution_is_fresh(base):
    codes = list((base.root / "usr/lib").rglob("*.pyc"))
    assert len(codes) > 300
    for code in codes:
        source = code.parent.parent / (code.name.partition(".")[0] + ".py")
        flags, mtime, size = struct.unpack("<3L", code.read_bytes()[4:16])
        assert (flags, mtime, size) == (0, MTIME, source.stat().st_size), code


def test_nothing_of_the_build_is_left(base):
    blob = base.store.layout.path(base.layer.digest)
    stamps = [
        time.strftime(form, time.gmtime()).encode() for form in ("%Y-%m-%d", "%a %b %e", "%a, %d %b %Y")
    ]
    words = [*stamps, b"/tmp/debs", str(base.store.root).encode()]
    found = []
    with gzip.open(blob) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            assert entry.mtime == MTIME, entry.name
            assert entry.uname == entry.gname == "", entry.name
            assert not entry.isdev(), entry.name
            if entry.isreg() and not entry.name.startswith(
                ("usr/lib/", "usr/share/", "usr/include/", "usr/bin/")
            ):
                content = archive.extractfile(entry).read()
                found += [(entry.name, word) for word in words if word in content]
    assert found == []
    for gone in ("etc/machine-id", "etc/hostname", "usr/sbin/policy-rc.d", "var/cache/ldconfig/aux-cache"):
        assert not (base.root / gone).exists(), gone
    assert [path for path in (base.root / "var/log").rglob("*") if path.is_file()] == []
    assert list((base.root / "etc").glob("*-")) == []


OTHER = """
import json, sys
from pathlib import Path
from envbuild.layers.base import build_base
from envbuild.lock.model import Artifact
from envbuild.progress import SilentProgress
from envbuild.sandbox import Sandbox
from envbuild.store import Store
store = Store.open(Path(sys.argv[1]))
debs = [(Artifact(**value), Path(path)) for value, path in json.loads(Path(sys.argv[2]).read_text())]
layer = build_base(debs[::-1], sandbox=Sandbox.detect(), store=store, progress=SilentProgress(), jobs=1)
print(json.dumps([layer.digest, layer.diff_id, layer.size]))
"""


def test_another_user_folder_umask_zone_locale_and_number_of_jobs_give_the_same_bytes(base, unprivileged):
    work = unprivileged.home / "base-test"
    shutil.rmtree(work, ignore_errors=True)
    (work / "debs").mkdir(parents=True)
    listed = []
    for artifact, path in base.debs:
        copy = work / "debs" / f"some-other-name-{artifact.name}"
        shutil.copy(path, copy)
        value = {name: getattr(artifact, name) for name in artifact.__dataclass_fields__}
        listed.append([value, str(copy)])
    (work / "debs.json").write_text(json.dumps(listed))
    shutil.chown(work, unprivileged.name, unprivileged.name)
    env = {"TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "TMPDIR": str(work)}
    env |= {"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1", "DEBIAN_FRONTEND": "dialog"}
    try:
        done = unprivileged.run(OTHER, str(work / "store"), str(work / "debs.json"), env=env, umask=0o077)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [base.layer.digest, base.layer.diff_id, base.layer.size]
        root = next((work / "store/roots").iterdir())
        assert (root / "etc/shadow").stat().st_gid > 65535  # a subordinate id of the user, outside
    finally:
        shutil.rmtree(work)
