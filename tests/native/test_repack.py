"""A wheel's bytes depend on its content only: not on order, times, modes or compression of what setup.py wrote."""

from __future__ import annotations

import base64
import calendar
import csv
import hashlib
import zipfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nativemaker import make_module

from envbuild.layers.format import MTIME as LAYER_MTIME
from envbuild.native.archives import MTIME
from envbuild.native.inside import TIME, repack

RECORD = "deepspeed-1.dist-info/RECORD"
NAME = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.(py|txt|json)", fullmatch=True)
CONTENTS = st.dictionaries(NAME, st.binary(max_size=300), min_size=1, max_size=8)


def write(
    path: Path, files: dict[str, bytes], *, order: list[str], year: int, mode: int, method: int
) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in order:
            info = zipfile.ZipInfo(name, date_time=(year, 2, 3, 4, 5, 6))
            info.external_attr = mode << 16
            archive.writestr(info, files[name], compress_type=method)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(contents=CONTENTS, data=st.data())
def test_same_content_gives_same_bytes(
    tmp_path: Path, contents: dict[str, bytes], data: st.DataObject
) -> None:
    files = {**contents, "deepspeed-1.dist-info/WHEEL": b"Wheel-Version: 1.0\n", RECORD: b"stale"}
    results = []
    for number in range(2):
        source, target = tmp_path / f"s{number}.whl", tmp_path / f"t{number}.whl"
        write(
            source,
            files,
            order=data.draw(st.permutations(sorted(files))),
            year=data.draw(st.integers(1980, 2100)),
            mode=data.draw(st.sampled_from([0o100644, 0o100600, 0o100755, 0])),
            method=data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])),
        )
        repack(source, target)
        results.append(target.read_bytes())
    assert results[0] == results[1]
    with zipfile.ZipFile(tmp_path / "t0.whl") as archive:
        names = archive.namelist()
        assert sorted(names) == sorted(files)
        assert names[-1] == RECORD
        assert names[-2].startswith("deepspeed-1.dist-info/")
        assert {name: archive.read(name) for name in contents} == contents
        check_record(archive)


def check_record(archive: zipfile.ZipFile) -> None:
    rows = list(csv.reader(archive.read(RECORD).decode().splitlines()))
    assert [row[0] for row in rows] == archive.namelist()
    for name, digest, size in rows[:-1]:
        data = archive.read(name)
        expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        assert (digest, size) == (f"sha256={expected}", str(len(data)))
    assert rows[-1] == [RECORD, "", ""]


def test_modules_are_stripped_and_modes_follow_from_names(tmp_path: Path) -> None:
    module = make_module(tmp_path / "m", cuda=False).read_bytes()
    files = {
        "deepspeed/op.cpython-311-x86_64-linux-gnu.so": module,
        "deepspeed/__init__.py": b"",
        "deepspeed-1.data/scripts/ds": b"#!python\n",
        RECORD: b"",
    }
    write(tmp_path / "s.whl", files, order=list(files), year=2026, mode=0, method=zipfile.ZIP_STORED)
    repack(tmp_path / "s.whl", tmp_path / "t.whl")
    with zipfile.ZipFile(tmp_path / "t.whl") as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
        stripped = archive.read("deepspeed/op.cpython-311-x86_64-linux-gnu.so")
        times = {info.date_time for info in archive.infolist()}
    assert modes == {
        "deepspeed/op.cpython-311-x86_64-linux-gnu.so": 0o100755,
        "deepspeed/__init__.py": 0o100644,
        "deepspeed-1.data/scripts/ds": 0o100755,
        RECORD: 0o100644,
    }
    assert b".debug_info" in module
    assert b".debug_info" not in stripped
    assert times == {TIME}


def test_there_is_one_constant_time() -> None:
    assert calendar.timegm(TIME) == MTIME == LAYER_MTIME
