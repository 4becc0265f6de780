"""What a reader of a wheel's layer sees is what `installer` installs."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import os
import posixpath
import random
import stat
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile
from wheelmaker import DEFLATED, STORED, Entry, sha256, wheel_entries, write_wheel, zip_bytes

from envbuild.layers.format import MTIME, SITE, VENV
from envbuild.layers.splice import layer_chunks, write_wheel_layer
from envbuild.layers.wheel import plan_wheel
from envbuild.oci import digest as digests
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress

FILE = "demo-1.0-py3-none-any.whl"
DATA = "demo-1.0.data"
LETTERS = st.characters(
    codec="utf-8",
    exclude_categories=["Cc", "Cs", "Zl", "Zp"],
    exclude_characters="/\\:",
    max_codepoint=0x1F6FF,
)
PARTS = st.one_of(
    st.text(LETTERS, min_size=1, max_size=12),
    st.sampled_from(
        ["pkg", "__init__.py", "lib.so.12", "a,b", 'say "hi"', "x" * 90, "y" * 120, "ü" * 70, "RECORD", " "]
    ),
)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b"",
            b"#!python\nprint(1)\n",
            b"#!pythonw -u\r\nx",
            b"#!python",
            bytes(70_000),
            random.Random(4).randbytes(70_000),
        ]
    ),
)
PLACES = st.sampled_from(
    [
        "",
        "",
        "",
        f"{DATA}/purelib/",
        f"{DATA}/platlib/",
        f"{DATA}/data/",
        f"{DATA}/headers/",
        f"{DATA}/scripts/",
    ]
)


@st.composite
def wheels(draw: st.DrawFn) -> list[Entry]:
    """A sound wheel whose files have places of their own, as every installer demands."""
    entries: list[Entry] = []
    files: set[str] = set()
    folders: set[str] = set()
    for place, parts in draw(
        st.lists(st.tuples(PLACES, st.lists(PARTS, min_size=1, max_size=4)), max_size=8)
    ):
        if any(
            part in (".", "..") or part.startswith(".wh.") or part.endswith(".dist-info") for part in parts
        ):
            continue
        path = f"{place and 'd-'}{'/'.join(parts)}"
        key = unicodedata.normalize("NFC", path).casefold()
        above = {key[:at] for at, letter in enumerate(key) if letter == "/"}
        if key in files or key in folders or above & files or len(path.encode()) > 900:
            continue
        files.add(key)
        folders |= above
        entries.append(
            Entry(
                place + path, draw(CONTENTS),
                mode=0o100000 | draw(st.sampled_from([0o644, 0o755, 0o666, 0o600, 0o711])),
                method=draw(st.sampled_from([DEFLATED, DEFLATED, STORED])), zip64=draw(st.booleans()),
                descriptor=draw(st.booleans()),
            )
        )  # fmt: skip
    names = draw(st.lists(st.from_regex(r"[a-z][a-z0-9._-]{0,9}", fullmatch=True), unique=True, max_size=3))
    lines = "".join(f"cmd-{name} = pkg.main:{draw(st.sampled_from(['run', 'Cli.main']))}\n" for name in names)
    entry_points = f"[console_scripts]\n{lines}[gui_scripts]\nshow = pkg:gui [extra]\n[other]\nx = y\n"
    return wheel_entries(entries, entry_points=draw(st.sampled_from([None, entry_points])))


def installed(wheel: Path, root: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each file that `installer` puts below ``root``."""
    schemes = {
        "purelib": f"/{SITE}", "platlib": f"/{SITE}", "scripts": f"/{VENV}/bin", "data": f"/{VENV}",
        "headers": f"/{VENV}/include/site/python3.11/demo",
    }  # fmt: skip
    target = SchemeDictionaryDestination(schemes, f"/{VENV}/bin/python", "posix", destdir=str(root))
    with WheelFile.open(wheel) as source:
        install(source, target, {"INSTALLER": b"envbuild\n"})
    return files_below(root)


def files_below(root: Path) -> dict[str, tuple[int, bytes]]:
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            found[str(path.relative_to(root))] = (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
    return found


def read_by_tarfile(blob: Path) -> dict[str, tuple[int, bytes]]:
    """What Python's gzip and tarfile see; owners, times and parents are checked on the way."""
    found, folders = {}, {""}
    with gzip.open(blob) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        for member in tar:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", MTIME)
            assert member.name.rpartition("/")[0] in folders, "a parent comes later or never"
            assert member.name not in found
            if member.isdir():
                assert member.mode == 0o755
                assert member.name not in folders
                folders.add(member.name)
            else:
                assert member.isreg()
                found[member.name] = (member.mode, tar.extractfile(member).read())
    return found


def without_traces(files: dict[str, tuple[int, bytes]]) -> dict[str, tuple[int, bytes]]:
    """The files that wheels brought. The two that the layer's form brings are there too: at most, and at least."""
    traces = {".no.prefetch.landmark", "stargz.index.json"}
    assert {path for path in files if "/" not in path} == traces
    return {path: file for path, file in files.items() if path not in traces}


def read_by(command: list[str], blob: Path, root: Path) -> dict[str, tuple[int, bytes]]:
    root.mkdir()
    with blob.open("rb") as stream:
        subprocess.run(
            command, cwd=root, stdin=stream, check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"}
        )
    return files_below(root)


@contextmanager
def plain_umask() -> Iterator[None]:
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def same_launcher(one: bytes, other: bytes) -> bool:
    """Same interpreter, same import, same call; the wording between them is each installer's own."""

    def essence(script: bytes) -> tuple[bytes, set[str]]:
        lines = {
            ast.unparse(node) for node in ast.walk(ast.parse(script)) if isinstance(node, ast.ImportFrom)
        }
        calls = {ast.unparse(node) for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Call)}
        return script.splitlines()[0], lines | {call for call in calls if call.startswith("sys.exit")}

    return essence(one) == essence(other)


def rows(record: bytes) -> dict[str, tuple[str, str]]:
    """RECORD by path. `installer` spells platlib's paths ``./…`` where the root is purelib: the same file."""
    lines = csv.reader(io.StringIO(record.decode(), newline=""))
    return {posixpath.normpath(path): (hash, size) for path, hash, size in lines}


def compare(layer: dict[str, tuple[int, bytes]], wanted: dict[str, tuple[int, bytes]]) -> None:
    layer = without_traces(layer)
    record = f"{SITE}/demo-1.0.dist-info/RECORD"
    launchers = {path for path in wanted if path.startswith((f"{VENV}/bin/cmd-", f"{VENV}/bin/show"))}
    assert layer.keys() == wanted.keys()
    assert {path: mode for path, (mode, _) in layer.items()} == {
        path: mode for path, (mode, _) in wanted.items()
    }
    for path in wanted.keys() - launchers - {record}:
        assert layer[path] == wanted[path], path
    for path in launchers:
        assert same_launcher(layer[path][1], wanted[path][1]), path
    ours, theirs = rows(layer[record][1]), rows(wanted[record][1])
    commands = {f"../../../bin/{path.rpartition('/')[2]}" for path in launchers}
    assert ours.keys() == theirs.keys()
    assert {path: row for path, row in ours.items() if path not in commands} == {
        path: row for path, row in theirs.items() if path not in commands
    }
    for path in commands:
        content = layer[f"{VENV}/bin/{path.rpartition('/')[2]}"][1]
        assert ours[path] == (f"sha256={sha256(content)}", str(len(content)))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(entries=wheels(), zip64_end=st.booleans())
def test_a_reader_of_the_layer_sees_what_installer_installs(entries: list[Entry], zip64_end: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, plain_umask():
        home = Path(folder)
        wheel = write_wheel(home, zip_bytes(entries, zip64_end=zip64_end))
        wanted = installed(wheel, home / "installed")
        layout = Layout.create(home / "oci")
        plan = plan_wheel(wheel, file=FILE, sha256="0" * 64)
        layer = write_wheel_layer("demo", [plan], layout, SilentProgress())
        blob = layout.path(layer.digest)
        compare(read_by_tarfile(blob), wanted)
        compare(read_by(["tar", "-xpz", "--same-permissions"], blob, home / "tar"), wanted)
        assert b"".join(layer_chunks([plan])) == blob.read_bytes()
        assert digests.of_bytes(gzip.decompress(blob.read_bytes())) == layer.diff_id
        assert layer.size == blob.stat().st_size
        for command in (["gzip", "-t"], ["zcat"]):
            seen = subprocess.run(command, input=blob.read_bytes(), check=True, capture_output=True).stdout
            assert command == ["gzip", "-t"] or digests.of_bytes(seen) == layer.diff_id


@pytest.mark.needs("busybox")
def test_busybox_reads_a_layer(tmp_path: Path) -> None:
    entries = wheel_entries(
        [Entry("pkg/" + "long-" * 40 + ".py", b"x = 1\n"), Entry("ü/é.txt", b"y" * 700, method=STORED)]
    )
    wheel = write_wheel(tmp_path, zip_bytes(entries))
    layout = Layout.create(tmp_path / "oci")
    layer = write_wheel_layer(
        "demo", [plan_wheel(wheel, file=FILE, sha256="0" * 64)], layout, SilentProgress()
    )
    blob = layout.path(layer.digest)
    assert read_by(["busybox", "tar", "-xz"], blob, tmp_path / "busybox") == read_by_tarfile(blob)
