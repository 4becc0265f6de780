"""The ELF reader reads what gcc makes, and nothing makes it raise anything but NotElf."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envbuild.smoke.elf import X86_64, NotElf, read_elf


@pytest.fixture
def library(compile_c, tmp_path):
    compile_c(tmp_path / "libcudart.so.12", "int x;", "-Wl,-soname,libcudart.so.12")
    return compile_c(
        tmp_path / "user.so",
        "int y;",
        "-Wl,--no-as-needed",
        str(tmp_path / "libcudart.so.12"),
        "-Wl,-rpath,/opt/a:/opt/b",
        "-Wl,-soname,libuser.so.1",
    )


def test_needed_soname_and_search_path(library):
    found = read_elf(library)
    assert found.needed[0] == "libcudart.so.12"
    assert found.soname == "libuser.so.1"
    assert found.search == ("/opt/a", "/opt/b")
    assert found.machine == X86_64


def test_it_agrees_with_readelf(library):
    text = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in text.splitlines() if "(NEEDED)" in line]
    assert list(read_elf(library).needed) == needed


def test_an_executable_is_read_too():
    assert read_elf(Path("/bin/sh")).needed


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_named_and_never_a_crash(library, tmp_path, data):
    whole = library.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "flip"]))
    if kind == "cut":
        broken = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        broken = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 8))):
            broken[data.draw(st.integers(0, 1023))] = data.draw(st.integers(0, 255))
    target = tmp_path / "broken.so"
    target.write_bytes(broken)
    with suppress(NotElf):
        read_elf(target)
