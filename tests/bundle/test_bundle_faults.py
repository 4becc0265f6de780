"""What is missing, damaged or different on the far side is named, and nothing half made is left."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import zstandard
from bundlemaker import NAME, World, noise

from envbuild.bundle import read_far
from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import SilentProgress
from envbuild.store import Store


def refused(id: str, exit: Exit, run: Callable[[], object]) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        run()
    assert (caught.value.id, caught.value.exit) == (id, exit), caught.value.message
    assert caught.value.hint
    return caught.value


def nothing_known(world: World) -> None:
    assert world.there.layout.tags() == {}
    assert list(world.there.roots.iterdir()) == []


def edit_index(world: World, change: Callable[[dict[str, object]], None]) -> None:
    path = world.bundle / "index.json"
    value = msgspec.json.decode(path.read_bytes())
    change(value)
    path.write_bytes(msgspec.json.encode(value))


def edit_plan(world: World, change: Callable[[dict[str, list[object]]], None]) -> None:
    """Change the plan, and let the index vouch for it."""
    plan = world.plan()
    change(plan)  # type: ignore[arg-type]
    data = zstandard.ZstdCompressor().compress(msgspec.json.encode(plan))
    (world.bundle / "plan.zst").write_bytes(data)
    piece = {"file": "plan.zst", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_index(world, lambda index: index.update(plan=piece))


def test_missing_pieces_are_named(world: World) -> None:
    world.pack(piece_size=100_000)
    (world.bundle / "piece-002").unlink()
    error = refused("bundle-incomplete", Exit.VERIFY, world.deliver)
    assert "piece-002" in error.message
    assert "--partial" in error.hint
    nothing_known(world)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: b"\0" + data[1:]], ids=["cut", "changed"]
)
@pytest.mark.parametrize("name", ["piece-001", "plan.zst"])
def test_a_damaged_piece_is_named(world: World, name: str, spoil: Callable[[bytes], bytes]) -> None:
    world.pack()
    path = world.bundle / name
    path.write_bytes(spoil(path.read_bytes()))
    error = refused("piece-damaged", Exit.VERIFY, world.deliver)
    assert str(path) in error.message
    nothing_known(world)


def test_a_good_copy_elsewhere_stands_in_for_a_damaged_piece(world: World) -> None:
    world.pack()
    other = world.folder / "other"
    shutil.copytree(world.bundle, other)
    (world.bundle / "piece-001").write_bytes(b"broken")
    assert world.deliver(world.bundle, other).complete


def test_pieces_come_from_several_folders(world: World) -> None:
    packed = world.pack(piece_size=100_000)
    other = world.folder / "other"
    other.mkdir()
    for piece in packed.index.pieces[1:]:
        shutil.move(world.bundle / piece.file, other)
    assert world.deliver(other, world.bundle).complete


def test_pieces_come_one_after_the_other(world: World) -> None:
    """Each folder is gone when the next one comes: what a slow line and a small carrier allow."""
    packed = world.pack(piece_size=50_000)
    files = [piece.file for piece in packed.index.pieces]
    assert len(files) > 3
    order = [files[-1], "plan.zst", *files[:-1]]
    made: list[str] = []
    for count, name in enumerate(order, start=1):
        carrier = world.folder / "carrier"
        carrier.mkdir()
        shutil.copy(world.bundle / "index.json", carrier)
        shutil.copy(world.bundle / name, carrier)
        delivered = world.deliver(carrier, partial=True)
        assert delivered.complete == (count == len(order))
        assert len(delivered.missing) == len(order) - count
        made += delivered.made
        shutil.rmtree(carrier)
    assert sorted(made) == sorted(world.image().diff_ids)
    assert world.there.layout.tags()[NAME].digest == packed.index.manifest.digest
    assert list(world.there.partial.iterdir()) == [], "the kept pieces are gone"


def test_a_damaged_piece_does_not_cost_the_good_ones(world: World) -> None:
    packed = world.pack(piece_size=100_000)
    bad = world.bundle / "piece-002"
    good = bad.read_bytes()
    bad.write_bytes(b"broken")
    refused("piece-damaged", Exit.VERIFY, lambda: world.deliver(partial=True))
    carrier = world.folder / "carrier"
    carrier.mkdir()
    shutil.copy(world.bundle / "index.json", carrier)
    (carrier / "piece-002").write_bytes(good)
    assert world.deliver(carrier).complete
    assert packed.index.pieces[1].file == "piece-002"


def test_a_far_file_that_differs_is_named(world: World, own_far: Path) -> None:
    world.pack()
    changed = own_far / "torch/same.py"
    changed.write_bytes(changed.read_bytes().replace(b"1", b"2"))
    (own_far / "LICENCE").unlink()
    error = refused("far-file-differs", Exit.VERIFY, lambda: world.deliver(have=(own_far,)))
    assert "torch/same.py" in error.message
    assert "is another file here (sha256:" in error.message
    assert "LICENCE" in error.message
    assert "is not there" in error.message
    assert "--have" in error.hint
    nothing_known(world)


def test_a_far_file_is_found_under_another_name(world: World, own_far: Path) -> None:
    world.pack()
    (own_far / "torch/lib/libtorch_cuda.so").rename(own_far / "moved")
    assert world.deliver(have=(own_far,)).complete


def test_the_far_files_may_lie_in_several_folders(world: World, own_far: Path) -> None:
    world.pack()
    other = world.folder / "other-far"
    other.mkdir()
    shutil.move(own_far / "torch", other / "torch")
    assert world.deliver(have=(own_far, other)).complete


def test_no_have_at_all(world: World) -> None:
    world.pack()
    error = refused("far-file-differs", Exit.VERIFY, lambda: world.deliver(have=()))
    assert "any --have folder" in error.message


def test_folders_that_are_not_there(world: World) -> None:
    world.pack()
    nowhere = world.folder / "nowhere"
    refused("no-such-folder", Exit.USAGE, lambda: world.deliver(have=(nowhere,)))
    refused("no-such-folder", Exit.USAGE, lambda: world.have(nowhere))
    refused("no-bundle", Exit.USAGE, lambda: world.deliver(nowhere))
    refused("no-bundle", Exit.USAGE, lambda: world.deliver(world.far))
    wrong = world.folder / "list"
    wrong.write_text("not an inventory")
    refused("bad-inventory", Exit.INPUT, lambda: world.have(wrong))


def test_two_bundles_do_not_mix(world: World) -> None:
    world.pack()
    world.pack(world.image("code two\n"), output="second")
    refused("several-bundles", Exit.VERIFY, lambda: world.deliver(world.bundle, world.folder / "second"))


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(kind="else"),
        lambda index: index.update(format=2),
        lambda index: index.update(more=1),
        lambda index: index["manifest"].update(text="{}"),
        lambda index: index["config"].update(digest="sha256:" + "0" * 64),
        lambda index: index["pieces"][0].update(file="../../etc/passwd"),
        lambda index: index["pieces"][0].update(size=-1),
    ],
)
def test_an_index_that_is_none(world: World, change: Callable[[dict[str, object]], None]) -> None:
    world.pack()
    edit_index(world, change)
    refused("bad-bundle", Exit.VERIFY, world.deliver)
    nothing_known(world)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan["layers"].pop(),
        lambda plan: plan["layers"][1]["parts"].append([1, 99]),
        lambda plan: plan["layers"][1]["parts"].append([1, 0]),
        lambda plan: plan["layers"][1]["parts"].pop(),
        lambda plan: plan["layers"][1]["parts"].append([7, 0]),
        lambda plan: plan["layers"][1].update(literal=[0, 1 << 40]),
        lambda plan: plan["patches"][0].__setitem__(0, 99),
        lambda plan: plan.clear(),
    ],
)
def test_a_plan_that_names_what_is_not_there(
    world: World, change: Callable[[dict[str, list[object]]], None]
) -> None:
    world.pack()
    edit_plan(world, change)
    refused("bad-bundle", Exit.VERIFY, world.deliver)
    nothing_known(world)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer["parts"].reverse(),
        lambda layer: layer.update(literal=[0, 1]),
    ],
    ids=["reversed", "another stream"],
)
def test_a_plan_that_makes_other_layers(
    world: World, change: Callable[[dict[str, list[object]]], None]
) -> None:
    """Hashes vouch for every file of the bundle; the diff_id alone sees that the tar is another one."""
    world.pack()
    edit_plan(world, lambda plan: change(plan["layers"][1]))  # type: ignore[arg-type]
    error = refused("layer-differs", Exit.VERIFY, world.deliver)
    assert world.image().diff_ids[1] in error.message
    assert world.there.layout.tags() == {}
    assert not (world.there.roots / world.image().diff_ids[1].removeprefix("sha256:")).exists()


def test_a_full_disk_there(world: World, tmp_path: Path) -> None:
    world.pack()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
    try:
        with Store.open(disk) as store:
            error = refused("disk-full", Exit.ENGINE, lambda: replace(world, there=store).deliver())
            assert "--store" in error.hint
            (disk / "fill").write_bytes(bytes(7_900_000))
            refused("disk-full", Exit.ENGINE, lambda: replace(world, there=store).deliver(partial=True))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_here(world: World, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], check=True)
    try:
        refused("disk-full", Exit.ENGINE, lambda: world.pack(output="disk"))
        assert not (disk / "index.json").exists()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_an_output_with_other_things_in_it(world: World) -> None:
    world.bundle.mkdir()
    (world.bundle / "thesis.tex").write_text("mine")
    error = refused("output-not-empty", Exit.USAGE, world.pack)
    assert "thesis.tex" in error.message
    assert (world.bundle / "thesis.tex").read_text() == "mine"


def test_a_damaged_layer_here(world: World) -> None:
    image = world.image()
    path = world.here.layout.path(image.layers[1].digest)
    path.write_bytes(zstandard.ZstdCompressor().compress(noise(1, 10))[:5].ljust(image.layers[1].size, b"\0"))
    error = refused("layer-damaged", Exit.VERIFY, lambda: world.pack(image))
    assert str(path) == error.where


def test_an_image_that_is_not_in_the_store(world: World) -> None:
    image = world.image()
    world.here.layout.remove(image.layers[0].digest)
    refused(
        "image-not-in-store",
        Exit.INPUT,
        lambda: world.pack(image, far=read_far((), jobs=1, progress=SilentProgress())),
    )
