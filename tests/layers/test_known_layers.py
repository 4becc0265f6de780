"""A layer whose digest is known is only hashed; other bytes are noticed and leave nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wheelmaker import Entry, wheel_entries, write_wheel, zip_bytes

from envbuild.layers.splice import write_known_layer, write_wheel_layer
from envbuild.layers.wheel import WheelPlan, plan_wheel
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress


def demo(folder: Path, content: bytes) -> WheelPlan:
    file = "demo-1.0-py3-none-any.whl"
    path = write_wheel(folder, zip_bytes(wheel_entries([Entry("demo/__init__.py", content)])), file)
    return plan_wheel(path, file=file, sha256="0" * 64)


def test_the_known_way_gives_the_same_blob_as_the_verifying_one(tmp_path: Path) -> None:
    plan = demo(tmp_path, b"x = 1\n" * 5000)
    slow, fast = Layout.create(tmp_path / "slow"), Layout.create(tmp_path / "fast")
    layer = write_wheel_layer("demo", [plan], slow, SilentProgress())
    assert write_known_layer(layer, [plan], fast, SilentProgress()) is True
    assert fast.path(layer.digest).read_bytes() == slow.path(layer.digest).read_bytes()


def test_other_bytes_than_the_known_ones_leave_nothing(tmp_path: Path) -> None:
    plan = demo(tmp_path, b"x = 1\n" * 5000)
    layer = write_wheel_layer("demo", [plan], Layout.create(tmp_path / "first"), SilentProgress())
    file = next(item for item in plan.files if item.path.endswith("demo/__init__.py"))
    data = bytearray(plan.wheel.read_bytes())
    data[file.offset + 3] ^= 1
    plan.wheel.write_bytes(data)
    layout = Layout.create(tmp_path / "second")
    assert write_known_layer(layer, [plan], layout, SilentProgress()) is False
    assert list(layout.blobs()) == []
    other = replace(layer, digest="sha256:" + "1" * 64)
    assert write_known_layer(other, [demo(tmp_path, b"x = 1\n")], layout, SilentProgress()) is False
    assert list(layout.blobs()) == []
