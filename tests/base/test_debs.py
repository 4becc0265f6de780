"""Reading .debs: every compression, damaged ones refused by name, and what dpkg needs before it can run."""

from __future__ import annotations

import tarfile
import time

import pytest
from debmaker import COMPRESSIONS, deb

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.debs import data_tar, essential, read_deb

CONTROL = (
    "Package: tool\nVersion: 1\nDescription: a\n longer\nDepends: libx (>= 2),\n liby | libz\n\nPackage: no\n"
)


def put(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".zst"])
def test_every_compression_that_dpkg_writes(tmp_path, compression):
    path = put(tmp_path, "x", deb(CONTROL, {"etc": None, "etc/a": b"content"}, compression))
    read = read_deb(path, "tool_1.deb")
    assert read.name == "tool"
    assert read.fields["Depends"] == "libx (>= 2), liby | libz"
    with data_tar(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        found = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isreg()}
    assert found == {"./etc/a": b"content"}


GOOD = deb(CONTROL, {})
DAMAGED = {
    "empty": b"",
    "not ar": b"hello" * 100,
    "cut in the control tar": GOOD[:150],
    "flipped byte": GOOD[:160] + bytes([GOOD[160] ^ 255]) + GOOD[161:],
    "no control": GOOD.replace(b"control.tar", b"xontrol.tar"),
    "ar header": GOOD.replace(b"`\n", b"??"),
    "size is no number": GOOD.replace(b"100644  ", b"100644  x", 1),
    "unknown compression": deb(CONTROL, {}, ".bz2"),
    "no package name": deb("Version: 1\n", {}),
}
assert ".bz2" in COMPRESSIONS


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_package_is_refused_by_name(tmp_path, data):
    with pytest.raises(EnvbuildError) as caught:
        read_deb(put(tmp_path, "x", data), "tool_1_amd64.deb")
    assert (caught.value.id, caught.value.exit) == ("deb-damaged", Exit.VERIFY)
    assert "tool_1_amd64.deb" in caught.value.message


def test_essential_packages_and_all_they_depend_on(tmp_path):
    controls = {
        "dpkg": "Package: dpkg\nEssential: yes\nPre-Depends: libc (>= 2), tar:any\n",
        "tar": "Package: tar\nDepends: libacl | other [amd64]\n",
        "libc": "Package: libc\nDepends: gcc-base\n",
        "gcc-base": "Package: gcc-base\n",
        "acl": "Package: acl9\nProvides: libacl (= 1), x\n",
        "awk": "Package: mawk\nProvides: awk\n",
        "files": "Package: base-files\nEssential: yes\nPre-Depends: awk\nDepends: not-locked\n",
        "vim": "Package: vim\nDepends: libc\n",
    }
    debs = [read_deb(put(tmp_path, name, deb(control, {})), name) for name, control in controls.items()]
    names = [found.name for found in essential(debs)]
    assert names == ["acl9", "base-files", "dpkg", "gcc-base", "libc", "mawk", "tar"]
    assert [found.name for found in essential(debs[::-1])] == names


def test_a_field_of_many_lines_takes_time_for_each_once(tmp_path):
    control = "Package: tool\nDescription: a\n" + " b\n" * 1_000_000
    started = time.process_time()
    assert (
        len(read_deb(put(tmp_path, "x", deb(control, {})), "tool_1.deb").fields["Description"]) == 2_000_001
    )
    assert time.process_time() - started < 5
