"""Wheel layers: the same bytes from the same wheels, several wheels in one, conflicts, memory, interrupts."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from test_wheel_layer_contents import read_by_tarfile, without_traces
from wheelmaker import DEFLATED, STORED, Entry, changed, deflated, wheel_entries, write_wheel, zip_bytes

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.format import FORMAT, SITE
from envbuild.layers.splice import check_conflicts, layer_chunks, write_wheel_layer
from envbuild.layers.wheel import WheelPlan, plan_wheel
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress

SHARED = Entry("nvidia/__init__.py", b"# shared\n")


def wheel(
    folder: Path, name: str, *entries: Entry, version: str = "1.0", sha256: str = "0" * 64
) -> WheelPlan:
    file = f"{name}-{version}-py3-none-any.whl"
    path = write_wheel(folder, zip_bytes(wheel_entries(entries, name=name, version=version)), file)
    return plan_wheel(path, file=file, sha256=sha256)


def write(folder: Path, *plans: WheelPlan) -> tuple[Layer, Path]:
    layout = Layout.create(folder / "oci")
    layer = write_wheel_layer("demo", plans, layout, SilentProgress())
    return layer, layout.path(layer.digest)


def demo(folder: Path) -> WheelPlan:
    return wheel(
        folder, "demo", Entry("demo/a.py", b"a = 1\n" * 50),
        Entry("demo/" + "n" * 120 + "/b.py", b"b" * 700, method=STORED),
        Entry("demo/empty.py"), Entry("demo-1.0.data/scripts/go", b"#!python\nprint()\n", mode=0o100755),
    )  # fmt: skip


def test_the_bytes_of_format_2_stay_as_they_are(tmp_path: Path) -> None:
    """If this fails, images change their digests: raise ``FORMAT`` and say so in the changelog."""
    entries = [
        Entry("demo/a.py", b"abc"),
        Entry("demo/" + "n" * 120 + "/\u00fc.py", b"b" * 700),
        Entry("demo/empty.py"),
        Entry("demo-1.0.data/scripts/go", b"#!python\nprint()\n", mode=0o100755),
    ]
    whole = wheel_entries(entries, entry_points="[console_scripts]\ndemo = demo.a:main\n")
    # No deflate bytes of this machine's zlib: all entries are stored but one, whose stream is given.
    whole = [replace(entry, method=STORED) for entry in whole]
    whole = changed(whole, "demo/a.py", method=DEFLATED, raw=bytes.fromhex("4b4c4a0600"))
    file = "demo-1.0-py3-none-any.whl"
    layer, _ = write(
        tmp_path, plan_wheel(write_wheel(tmp_path, zip_bytes(whole)), file=file, sha256="0" * 64)
    )
    assert FORMAT == 2
    assert layer.digest == "sha256:5f00d189285dcc0e64fbf3654abb01bf354292ec85281e44bca88a153babb050"
    assert layer.diff_id == "sha256:f348afa314cf666c58ab709b01c1fcd7252bb699c529209ff19ea2bba16df368"


def test_the_wheels_order_place_name_and_time_do_not_matter(tmp_path: Path) -> None:
    plans = [
        demo(tmp_path / "one"),
        wheel(tmp_path / "one", "other", SHARED),
        wheel(tmp_path / "one", "third"),
    ]
    first, _ = write(tmp_path / "first", *plans)
    before = os.umask(0o077)
    try:
        moved = [
            plan_wheel(shutil.copy(plan.wheel, tmp_path / f"{number}"), file=plan.file, sha256=plan.sha256)
            for number, plan in enumerate(plans)
        ]
        second, _ = write(tmp_path / "second", *reversed(moved))
    finally:
        os.umask(before)
    assert second == first


def test_wheels_of_one_layer_are_merged_and_a_shared_file_is_there_once(tmp_path: Path) -> None:
    one, two = wheel(tmp_path, "one", SHARED, Entry("nvidia/one.py", b"1")), wheel(tmp_path, "two", SHARED)
    _, blob = write(tmp_path, one, two)
    files = read_by_tarfile(blob)  # asserts that nothing is there twice
    assert files[f"{SITE}/nvidia/__init__.py"] == (0o644, b"# shared\n")
    for name in ("one", "two"):
        assert b"nvidia/__init__.py,sha256=" in files[f"{SITE}/{name}-1.0.dist-info/RECORD"][1]


@pytest.mark.parametrize(
    "other",
    [
        Entry("nvidia/__init__.py", b"# different\n"),
        Entry("nvidia/__init__.py", b"# shared\n", mode=0o100755),
        Entry("nvidia/__init__.py/below.py", b""),
        Entry("nvidia", b"a file"),
    ],
)
def test_two_wheels_with_different_files_at_one_path_are_refused(tmp_path: Path, other: Entry) -> None:
    plans = [wheel(tmp_path, "one", SHARED), wheel(tmp_path, "two", other)]
    check_conflicts(plans[:1])
    with pytest.raises(EnvbuildError) as caught:
        check_conflicts(plans)
    assert (caught.value.id, caught.value.exit) == ("wheel-conflict", Exit.INPUT)
    assert all(plan.file in caught.value.message for plan in plans)
    assert f"/{SITE}/nvidia" in caught.value.message
    with pytest.raises(EnvbuildError):
        write(tmp_path, *plans)


@pytest.mark.parametrize(
    ("one", "other"),
    [("nvidia/\u00e9.py", "nvidia/e\u0301.py"), ("\u00e9/a.py", "e\u0301/b.py"), ("\u00e9", "e\u0301/b.py")],
)
def test_two_wheels_with_one_name_in_two_unicode_forms_are_refused(
    tmp_path: Path, one: str, other: str
) -> None:
    plans = [wheel(tmp_path, "one", Entry(one, b"x")), wheel(tmp_path, "two", Entry(other, b"x"))]
    with pytest.raises(EnvbuildError) as caught:
        check_conflicts(plans)
    assert (caught.value.id, caught.value.exit) == ("wheel-conflict", Exit.INPUT)
    assert all(plan.file in caught.value.message for plan in plans)
    assert "\\xe9" in caught.value.message or "different files" in caught.value.message


def test_two_wheels_whose_names_differ_by_case_go_together(tmp_path: Path) -> None:
    check_conflicts(
        [wheel(tmp_path, "one", Entry("Demo/a", b"x")), wheel(tmp_path, "two", Entry("demo/A", b"y"))]
    )


def test_byte_code_and_installers_notes_in_a_wheel_stay_out(tmp_path: Path) -> None:
    plan = wheel(
        tmp_path, "demo", Entry("demo/__pycache__/a.cpython-311.pyc", b"x"), Entry("demo/a.py", b"x"),
        Entry("demo-1.0.dist-info/INSTALLER", b"pip\n"), Entry("demo-1.0.dist-info/REQUESTED", b""),
        Entry("demo-1.0.dist-info/direct_url.json", b"{}"),
        Entry("demo-1.0.dist-info/RECORD.jws", b"{}", recorded=False),
        Entry("demo/vendor-2.0.dist-info/RECORD", b"vendored"),
    )  # fmt: skip
    _, blob = write(tmp_path, plan)
    files = without_traces(read_by_tarfile(blob))
    info = f"{SITE}/demo-1.0.dist-info"
    assert set(files) == {
        f"{SITE}/demo/a.py", f"{SITE}/demo/vendor-2.0.dist-info/RECORD", f"{info}/METADATA", f"{info}/WHEEL",
        f"{info}/INSTALLER", f"{info}/RECORD",
    }  # fmt: skip
    assert files[f"{info}/INSTALLER"] == (0o644, b"envbuild\n")


def test_deflate_bytes_are_taken_as_they_are(tmp_path: Path) -> None:
    stream = deflated(random.Random(1).randbytes(50_000) + bytes(50_000), level=9)
    entry = Entry("demo/data.bin", random.Random(1).randbytes(50_000) + bytes(50_000), raw=stream)
    _, blob = write(tmp_path, wheel(tmp_path, "demo", entry))
    assert stream in blob.read_bytes()


def test_a_command_of_an_entry_point_runs(tmp_path: Path) -> None:
    entries = wheel_entries(
        [
            Entry(
                "demo.py",
                b"import sys\nclass Cli:\n    @staticmethod\n    def main():\n        return len(sys.argv)\n",
            )
        ],
        entry_points="[console_scripts]\ndemo-run = demo:Cli.main\n",
    )
    file = "demo-1.0-py3-none-any.whl"
    plan = plan_wheel(write_wheel(tmp_path, zip_bytes(entries), file), file=file, sha256="0" * 64)
    _, blob = write(tmp_path, plan)
    subprocess.run(["tar", "-xzf", blob, "-C", tmp_path], check=True)
    command = [sys.executable, tmp_path / "opt/venv/bin/demo-run", "one", "two"]
    assert subprocess.run(command, env={"PYTHONPATH": str(tmp_path / SITE)}, check=False).returncode == 3


class Interrupting:
    """A progress whose step is interrupted, as by Ctrl-C, after a number of reports."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Interrupting]:
        yield self

    def note(self, text: str) -> None:
        """Nothing."""

    def total(self, total: int) -> None:
        """Nothing."""

    def advance(self, amount: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 30])
def test_an_interrupt_leaves_no_blob_and_no_thread(tmp_path: Path, after: int) -> None:
    block = random.Random(2).randbytes(1 << 20)
    plan = wheel(tmp_path, "demo", Entry("demo/data.bin", block * 16, method=STORED))
    layout = Layout.create(tmp_path / "oci")
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write_wheel_layer("demo", [plan], layout, Interrupting(after))
    assert threading.active_count() == before
    assert not [path for path in (tmp_path / "oci/blobs").rglob("*") if path.is_file()]
    layer = write_wheel_layer("demo", [plan], layout, SilentProgress())
    assert layout.has(layer.digest, layer.size)


MEASURE = """
import resource, sys
from pathlib import Path
from envbuild.layers.splice import write_wheel_layer
from envbuild.layers.wheel import plan_wheel
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress
layout = Layout.create(Path(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan = plan_wheel(Path(sys.argv[1]), file="demo-1.0-py3-none-any.whl", sha256="0" * 64)
write_wheel_layer("demo", [plan], layout, SilentProgress())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_wheel(tmp_path: Path) -> None:
    """96 MB of content, deflated and stored, in less than 40 MB of memory besides the interpreter's."""
    content = random.Random(3).randbytes(1 << 20) * 48
    entries = [
        Entry("demo/stored.bin", content, method=STORED),
        Entry("demo/deflated.bin", content, raw=deflated(content, 0)),
    ]
    path = write_wheel(tmp_path, zip_bytes(wheel_entries(entries)))
    command = [sys.executable, "-c", MEASURE, path, tmp_path / "oci"]
    seen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(seen) < 40_000  # KiB
    (blob,) = [path for path in (tmp_path / "oci/blobs").rglob("*") if path.is_file()]
    with gzip.open(blob) as plain:
        assert sum(len(chunk) for chunk in iter(lambda: plain.read(1 << 20), b"")) > 2 * len(content)


def test_streaming_again_gives_the_same_blob(tmp_path: Path) -> None:
    plans = [
        demo(tmp_path),
        wheel(tmp_path, "other", Entry("other/data.bin", bytes(range(256)) * 4000, method=STORED)),
    ]
    _, blob = write(tmp_path, *plans)
    assert b"".join(layer_chunks(plans)) == blob.read_bytes()
