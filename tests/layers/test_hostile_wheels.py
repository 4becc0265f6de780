"""Hostile, damaged and foreign wheels are refused by name, and leave nothing behind."""

from __future__ import annotations

import os
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wheel_layer_contents import read_by_tarfile, without_traces
from wheelmaker import STORED, Entry, changed, deflated, sha256, wheel_entries, write_wheel, zip_bytes

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.splice import write_wheel_layer
from envbuild.layers.wheel import plan_wheel
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress

FILE = "demo-1.0-py3-none-any.whl"
INFO = "demo-1.0.dist-info"
BODY = Entry("demo/body.py", b"x = 1\n" * 200)


def build(folder: Path, data: bytes, file: str = FILE) -> Layer:
    wheel = write_wheel(folder / "wheels", data, "artifact")
    layout = Layout.create(folder / "oci")
    return write_wheel_layer(
        "demo", [plan_wheel(wheel, file=file, sha256="0" * 64)], layout, SilentProgress()
    )


def refusal(folder: Path, data: bytes, file: str = FILE) -> EnvbuildError:
    """The error that ``data`` gives; a refused wheel leaves no blob, no file being written and no thread."""
    threads = threading.active_count()
    with pytest.raises(EnvbuildError) as caught:
        build(folder, data, file)
    assert file in caught.value.message
    assert caught.value.where == file
    assert "envbuild" in caught.value.hint or "run the command again" in caught.value.hint
    assert threading.active_count() == threads
    left = [path for path in (folder / "oci").rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {"oci-layout", "index.json", "index.lock"}, left
    return caught.value


def named(name: str | bytes, **more: object) -> bytes:
    return zip_bytes(wheel_entries([BODY, Entry(name, b"evil", **more)]))


def with_body(**changes: object) -> bytes:
    return zip_bytes(changed(wheel_entries([BODY]), "demo/body.py", **changes))


def plain(**options: object) -> bytes:
    return zip_bytes(wheel_entries([BODY], **options))


def twice(one: str, other: str) -> bytes:
    return zip_bytes(wheel_entries([Entry(one, b"a"), Entry(other, b"a")]))


def overlapping() -> bytes:
    """Two names for one range of the file: the way of the better zip bombs."""
    entries = wheel_entries([BODY, Entry("demo/other.py", BODY.content)])
    return zip_bytes(changed(entries, "demo/other.py", central={"offset": 0}))


def quine(size: int) -> bytes:
    """A file that promises ``size`` bytes and holds as many, all zeros."""
    return zip_bytes(wheel_entries([Entry(f"demo/{part}.bin", bytes(size // 4)) for part in range(4)]))


def prefixed() -> bytes:
    return zip_bytes(changed(wheel_entries([BODY]), "demo/body.py", before=b"#!/bin/sh\n"))


def far_end() -> bytes:
    """The zip64 locator points to where no file reaches."""
    data = zip_bytes(wheel_entries([BODY]), zip64_end=True)
    at = data.rindex(b"PK\x06\x07") + 8
    return data[:at] + b"\xff" * 8 + data[at + 8 :]


HUGE = {"size": 0xFFFFFFF0}
DEFLATED_BODY = deflated(BODY.content)
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute path": (lambda: named("/etc/passwd"), "wheel-absolute-path"),
    "parent path": (lambda: named("../../../../../../etc/passwd"), "wheel-parent-path"),
    "parent path inside": (lambda: named("demo/../../evil"), "wheel-parent-path"),
    "parent path by data scheme": (lambda: named("demo-1.0.data/data/../../evil"), "wheel-parent-path"),
    "drive letter": (lambda: named("C:/evil.py"), "wheel-windows-path"),
    "backslash": (lambda: named("demo\\..\\evil.py"), "wheel-windows-path"),
    "NUL in a name": (lambda: named("demo/evil.py\0.txt"), "wheel-name-control"),
    "newline in a name": (lambda: named("demo/evil\n.py"), "wheel-name-control"),
    "C1 control in a name": (lambda: named("demo/evil\x9b.py"), "wheel-name-control"),
    "text turned around in a name": (lambda: named("demo/evil\u202eyp.exe"), "wheel-name-control"),
    "dot in a path": (lambda: named("demo/./evil.py"), "wheel-name-ambiguous"),
    "empty part": (lambda: named("demo//evil.py"), "wheel-name-ambiguous"),
    "empty name": (lambda: named(""), "wheel-name-ambiguous"),
    "too deep": (lambda: named("d/" * 128 + "x.py"), "wheel-name-length"),
    "long name": (lambda: named("d" * 256), "wheel-name-length"),
    "whiteout of a file": (lambda: named("torch/.wh.__init__.py"), "wheel-whiteout"),
    "opaque whiteout": (lambda: named(".wh..wh..opq"), "wheel-whiteout"),
    "Latin-1 name": (lambda: named(b"demo/\xe9.py"), "wheel-name-encoding"),
    "UTF-8 name not marked": (lambda: named("demo/é.py", central={"flags": 0}), "wheel-name-encoding"),
    "second name in an extra field": (
        lambda: named("demo/a.py", central={"extra": struct.pack("<2HBL", 0x7075, 9, 1, 0) + b"b.py"}),
        "wheel-name-ambiguous",
    ),
    "symbolic link": (lambda: named("demo/link", mode=0o120777), "wheel-symlink"),
    "device": (lambda: named("demo/null", mode=0o020666), "wheel-special-file"),
    "named pipe": (lambda: named("demo/pipe", mode=0o010644), "wheel-special-file"),
    "directory with content": (lambda: named("demo/folder/", method=STORED), "wheel-size"),
    "duplicate": (lambda: twice("demo/a.py", "demo/a.py"), "wheel-duplicate"),
    "duplicate by data scheme": (lambda: twice("a.py", "demo-1.0.data/purelib/a.py"), "wheel-duplicate"),
    "names that differ by normalisation": (lambda: twice("demo/\u00e9", "demo/e\u0301"), "wheel-name-twins"),
    "folders that differ by normalisation": (lambda: twice("demo/\u00e9/a", "demo/e\u0301/b"), "wheel-name-twins"),
    "file used as directory": (lambda: twice("demo/a", "demo/a/b"), "wheel-file-as-directory"),
    "file used as directory, not ASCII": (lambda: twice("demo/E\u0301", "demo/E\u0301/b"), "wheel-file-as-directory"),
    "interpreter replaced": (lambda: named("demo-1.0.data/scripts/python"), "wheel-reserved-path"),
    "interpreter replaced by a folder": (lambda: named("demo-1.0.data/scripts/python3.11/x"), "wheel-reserved-path"),
    "interpreter replaced by folders": (lambda: named("demo-1.0.data/data/bin/python/a/b"), "wheel-reserved-path"),
    "interpreter in capitals": (lambda: named("demo-1.0.data/scripts/PYTHON3"), "wheel-reserved-path"),
    "activation replaced": (lambda: named("demo-1.0.data/scripts/activate"), "wheel-reserved-path"),
    "settings used as a folder": (lambda: named("demo-1.0.data/data/pyvenv.cfg/x"), "wheel-reserved-path"),
    "lib64 as a file": (lambda: named("demo-1.0.data/data/lib64"), "wheel-reserved-path"),
    "folder of commands as a file": (lambda: named("demo-1.0.data/data/bin"), "wheel-reserved-path"),
    "folder of headers as a file": (lambda: named("demo-1.0.data/data/include/python3.11"), "wheel-reserved-path"),
    "folder of packages as a file": (
        lambda: named("demo-1.0.data/data/lib/python3.11/site-packages"), "wheel-reserved-path",
    ),
    "folder of byte code as a file": (lambda: named("demo/__pycache__"), "wheel-reserved-path"),
    "installer's file in lower case": (lambda: named(f"{INFO}/installer"), "wheel-reserved-path"),
    "installer's file by data scheme": (
        lambda: named(f"demo-1.0.data/purelib/{INFO}/direct_url.json"), "wheel-reserved-path",
    ),
    "interpreter replaced by a folder of commands": (
        lambda: plain(entry_points="[console_scripts]\npython3.11/x = demo:main\n"), "wheel-reserved-path",
    ),
    "environment's settings replaced": (lambda: named("demo-1.0.data/data/pyvenv.cfg"), "wheel-reserved-path"),
    "lib64 replaced": (lambda: named("demo-1.0.data/data/lib64/evil.py"), "wheel-reserved-path"),
    "interpreter replaced by a command": (
        lambda: plain(entry_points="[console_scripts]\npython3 = demo:main\n"), "wheel-reserved-path",
    ),
    "command outside the folder": (
        lambda: plain(entry_points="[console_scripts]\n../../../../bin/sh = demo:main\n"), "wheel-parent-path",
    ),
    "unknown data scheme": (lambda: named("demo-1.0.data/etc/evil"), "wheel-data-scheme"),
    "size too small": (lambda: with_body(central={"size": 10}, local={"size": 10}), "wheel-size"),
    "size too large": (lambda: with_body(central={"size": 1300}, local={"size": 1300}), "wheel-size"),
    "sizes lie about stored": (lambda: named("demo/a", method=STORED, central={"size": 5}), "wheel-size"),
    "wrong CRC": (lambda: with_body(central={"crc": 1}, local={"crc": 1}), "wheel-crc"),
    "content changed, CRC too": (
        lambda: with_body(
            raw=deflated(b"y" * 1200), central={"crc": zlib.crc32(b"y" * 1200)}, local={"crc": zlib.crc32(b"y" * 1200)},
        ),
        "wheel-record-hash",
    ),
    "stored content changed": (lambda: with_body(method=STORED, raw=b"y" * 1200), "wheel-crc"),
    "garbage after the deflate stream": (lambda: with_body(raw=DEFLATED_BODY + b"garbage"), "wheel-deflate"),
    "second stream after the deflate stream": (lambda: with_body(raw=DEFLATED_BODY * 2), "wheel-deflate"),
    "deflate stream without end": (lambda: with_body(raw=DEFLATED_BODY[:-3]), "wheel-deflate"),
    "no deflate stream": (lambda: with_body(raw=b"\xff" * 40), "wheel-deflate"),
    "bomb by ratio": (lambda: quine(1 << 27), "wheel-bomb"),
    "bomb that cannot be": (lambda: with_body(central=HUGE, local=HUGE), "wheel-bomb"),
    "local header has another size": (lambda: with_body(local={"size": 7}), "wheel-local-header"),
    "local header has another name": (lambda: with_body(local={"name": b"demo/BODY.py"}), "wheel-local-header"),
    "local header has another method": (lambda: with_body(local={"method": STORED}), "wheel-local-header"),
    "no local header": (lambda: with_body(central={"offset": 5}), "wheel-hidden-bytes"),
    "data descriptor lies": (
        lambda: zip_bytes(wheel_entries([Entry("demo/a", b"abc", descriptor=True, central={"crc": 5})])),
        "wheel-descriptor",
    ),
    "overlapping entries": (overlapping, "wheel-overlap"),
    "bytes before the first entry": (prefixed, "wheel-hidden-bytes"),
    "bytes between entries and directory": (
        lambda: zip_bytes(wheel_entries([BODY]), gap=b"hidden"), "wheel-hidden-bytes",
    ),
    "bytes after the end": (lambda: plain() + b"hidden", "wheel-hidden-bytes"),
    "a zip in the comment of a zip": (lambda: zip_bytes(wheel_entries([BODY]), comment=plain()), "wheel-hidden-bytes"),
    "encrypted": (lambda: with_body(central={"flags": 1}, local={"flags": 1}), "wheel-encrypted"),
    "unknown compression": (lambda: with_body(central={"method": 12}, local={"method": 12}), "wheel-compression"),
    "end record beyond all files": (far_end, "wheel-zip-directory"),
    "not a zip": (lambda: b"<html>404</html>", "wheel-not-zip"),
    "empty file": (lambda: b"", "wheel-not-zip"),
    "cut off": (lambda: plain()[:-30], "wheel-not-zip"),
    "no RECORD": (lambda: plain(without=["RECORD"]), "wheel-dist-info"),
    "no WHEEL": (lambda: plain(without=["WHEEL"], record=b""), "wheel-dist-info"),
    "no METADATA": (lambda: plain(without=["METADATA"], record=b""), "wheel-dist-info"),
    "two .dist-info folders": (lambda: named("other-1.0.dist-info/METADATA"), "wheel-dist-info"),
    "no entries": (lambda: zip_bytes([]), "wheel-dist-info"),
    "file not in RECORD": (lambda: named("demo/extra.py", recorded=False), "wheel-unrecorded"),
    "RECORD names a missing file": (
        lambda: plain(record=b"demo/gone.py,sha256=abc,3\n" + record_of([BODY])), "wheel-record-missing",
    ),
    "RECORD has another hash": (
        lambda: plain(record=record_of([BODY]).replace(sha256(BODY.content).encode(), sha256(b"").encode())),
        "wheel-record-hash",
    ),
    "RECORD has another size": (lambda: plain(record=record_of([BODY]).replace(b",1200", b",1201")), "wheel-size"),
    "RECORD has a weak hash": (lambda: plain(record=record_of([BODY]).replace(b"sha256=", b"md5=")), "wheel-record"),
    "RECORD has two hashes for a name": (
        lambda: plain(record=record_of([BODY]) + f"demo/body.py,sha256={sha256(b'')},0\n".encode()), "wheel-record",
    ),
    "RECORD is no CSV of three columns": (lambda: plain(record=b"demo/body.py\n"), "wheel-record"),
    "empty file with another hash": (
        lambda: zip_bytes(wheel_entries([Entry("demo/a.py")], record=record_of([Entry("demo/a.py", b"x")]))),
        "wheel-size",
    ),
    "METADATA of another project": (
        lambda: plain(metadata="Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n"), "wheel-identity",
    ),
    "METADATA of another version": (
        lambda: plain(metadata="Metadata-Version: 2.1\nName: demo\nVersion: 2.0\n"), "wheel-identity",
    ),
    "METADATA with two names": (
        lambda: plain(metadata="Metadata-Version: 2.1\nName: demo\nName: torch\nVersion: 1.0\n"), "wheel-identity",
    ),
    "folder of another project": (lambda: plain(name="torch"), "wheel-identity"),
    "Wheel-Version 2": (lambda: plain(wheel="Wheel-Version: 2.0\nTag: {tag}\n"), "wheel-version"),
    "no Wheel-Version": (lambda: plain(wheel="Generator: x\n"), "wheel-version"),
    "METADATA is not text": (lambda: metadata_bytes(b"\xff\xfe"), "wheel-metadata"),
    "entry points that are no file format": (lambda: plain(entry_points="console_scripts"), "wheel-entry-points"),
    "entry point that is no function": (
        lambda: plain(entry_points="[console_scripts]\na = import os; os.system('x')\n"), "wheel-entry-points",
    ),
}  # fmt: skip
FOREIGN = {
    "demo-1.0-py3-none-win_amd64.whl": "wheel-platform",
    "demo-1.0-cp311-cp311-manylinux_2_17_aarch64.whl": "wheel-platform",
    "demo-1.0-cp311-cp311-musllinux_1_2_x86_64.whl": "wheel-platform",
    "demo-1.0-cp311-cp311-manylinux_2_39_x86_64.whl": "wheel-platform",
    "demo-1.0-cp312-cp312-manylinux_2_17_x86_64.whl": "wheel-platform",
    "demo-1.0-cp310-cp310-linux_x86_64.whl": "wheel-platform",
    "demo-1.0-py2-none-any.whl": "wheel-platform",
    "demo-2.0-py3-none-any.whl": "wheel-identity",
    "other-1.0-py3-none-any.whl": "wheel-identity",
    "demo.whl": "wheel-file-name",
    "demo-one-py3-none-any.whl": "wheel-file-name",
    "../demo-1.0-py3-none-any.whl": "wheel-file-name",
}
NATIVE = (
    "demo-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    "demo-1.0-cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "demo-1.0-py3-none-manylinux1_x86_64.whl",
    "demo-1.0-1-py2.py3-none-any.whl",
    "demo-1.0-cp311-cp311-linux_x86_64.whl",
)


def record_of(entries: list[Entry]) -> bytes:
    return wheel_entries(entries)[-1].content


def metadata_bytes(content: bytes) -> bytes:
    entries = [entry for entry in wheel_entries([]) if not str(entry.name).endswith(("/METADATA", "/RECORD"))]
    found = [*entries, Entry(f"{INFO}/METADATA", content)]
    lines = "".join(f"{entry.name},sha256={sha256(entry.content)},{len(entry.content)}\n" for entry in found)
    return zip_bytes([*found, Entry(f"{INFO}/RECORD", f"{lines}{INFO}/RECORD,,\n".encode())])


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_wheel_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    make, id = HOSTILE[kind]
    error = refusal(tmp_path, make())
    assert error.id == id, error.message
    assert error.exit in (Exit.INPUT, Exit.VERIFY)


@pytest.mark.parametrize(
    "names",
    [
        ("demo/a.py", "demo/A.py"),
        ("demo-1.0.data/scripts/pip", "demo-1.0.data/scripts/activate-demo"),
        ("demo/_vendor/x-1.dist-info/INSTALLER", "demo/_vendor/x-1.dist-info/RECORD"),
    ],
)
def test_names_that_differ_by_case_and_names_that_are_nobodys_are_taken(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    assert build(tmp_path, twice(*names)).artifacts == ("demo",)


@pytest.mark.parametrize("file", FOREIGN)
def test_a_wheel_for_something_else_is_refused(tmp_path: Path, file: str) -> None:
    error = refusal(tmp_path, plain(), file)
    assert (error.id, error.exit) == (FOREIGN[file], Exit.INPUT)


@pytest.mark.parametrize("file", NATIVE)
def test_a_wheel_for_the_image_is_taken(tmp_path: Path, file: str) -> None:
    assert build(tmp_path, plain(), file).artifacts == ("demo",)


def test_a_wheel_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(EnvbuildError) as caught:
        plan_wheel(tmp_path / "gone", file=FILE, sha256="0" * 64)
    assert caught.value.id == "wheel-unreadable"


def test_a_wheel_that_vanishes_or_shrinks_after_planning_is_one_error(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, zip_bytes(wheel_entries([Entry("demo/body", os.urandom(5000))])))
    layout = Layout.create(tmp_path / "oci")
    plan = plan_wheel(wheel, file=FILE, sha256="0" * 64)
    os.truncate(wheel, 1000)
    with pytest.raises(EnvbuildError) as caught:
        write_wheel_layer("demo", [plan], layout, SilentProgress())
    assert (caught.value.id, caught.value.exit) == ("wheel-truncated", Exit.VERIFY)
    wheel.unlink()
    with pytest.raises(EnvbuildError) as caught:
        write_wheel_layer("demo", [plan], layout, SilentProgress())
    assert caught.value.id == "wheel-unreadable"


SOUND = zip_bytes(
    wheel_entries(
        [
            BODY,
            Entry("demo/stored.bin", bytes(range(256)), method=STORED),
            Entry("demo/later.py", b"y", descriptor=True),
            Entry("demo/large.py", b"z" * 99, zip64=True),
            Entry("demo/empty.py"),
            Entry("demo-1.0.data/scripts/run", b"#!python\n"),
        ],
        entry_points="[console_scripts]\ngo = demo.body:go\n",
    ),
    zip64_end=True,
)


def contents(folder: Path, data: bytes) -> dict[str, bytes] | None:
    """What the layer's files of ``data`` hold (no hash of a wheel covers a mode), or ``None`` if it is refused."""
    try:
        layer = build(folder, data)
    except EnvbuildError:
        return None
    files = without_traces(read_by_tarfile(Layout(folder / "oci").path(layer.digest)))
    return {path: content for path, (_, content) in files.items()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    found = contents(tmp_path_factory.mktemp("sound"), SOUND)
    assert found is not None
    return found


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(SOUND) - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing(sound: dict[str, bytes], at: int, flip: int) -> None:
    damaged = bytearray(SOUND)
    damaged[at] ^= flip
    with tempfile.TemporaryDirectory() as folder:
        assert contents(Path(folder), bytes(damaged)) in (None, sound)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(0, len(SOUND) - 1))
def test_a_cut_off_wheel_is_refused(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert contents(Path(folder), SOUND[:length]) is None
