"""What is packed here comes out there: every layer, every attribute, with little to carry."""

from __future__ import annotations

import os
from pathlib import Path

from bundlemaker import EXTENSION, LIBRARY, NAME, World, library

from envbuild.bundle import read_far, write_inventory
from envbuild.engine import ImageRef
from envbuild.engine.roots import Roots
from envbuild.progress import SilentProgress
from envbuild.store.gc import Keep, collect

SILENT = SilentProgress()


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything about every entry below ``root``. Folders that no layer's tar names have no time of their own."""
    found: dict[str, tuple[object, ...]] = {}
    for parent, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(parent, name)
            status = path.lstat()
            content: object = os.readlink(path) if path.is_symlink() else None
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
            notes = [] if path.is_symlink() else [(n, os.getxattr(path, n)) for n in os.listxattr(path)]
            named = "opt" not in path.relative_to(root).parts or not path.is_dir()
            time = status.st_mtime if named else None
            attributes = (status.st_mode, status.st_uid, status.st_gid, time, status.st_nlink)
            found[str(path.relative_to(root))] = (*attributes, content, notes)
    return found


def test_every_layer_comes_out_as_it_went_in(world: World) -> None:
    image = world.image()
    packed = world.pack(image)
    delivered = world.deliver()
    assert delivered.complete
    assert delivered.made == image.diff_ids
    Roots(store=world.here, sandbox=world.sandbox, jobs=2).load(image, SILENT)
    for diff_id in image.diff_ids:
        name = diff_id.removeprefix("sha256:")
        assert tree(world.there.roots / name) == tree(world.here.roots / name)
        assert tree(world.there.roots / name)
    assert packed.index.manifest.digest == image.manifest


def test_the_image_is_known_without_its_compressed_layers(world: World) -> None:
    image = world.image()
    world.pack(image)
    world.deliver()
    descriptor = world.there.layout.tags()[NAME]
    there = ImageRef.read(world.there.layout, descriptor.digest, (NAME,))
    assert (there.manifest, there.config, there.diff_ids) == (image.manifest, image.config, image.diff_ids)
    assert not there.present
    assert Roots(store=world.there, sandbox=world.sandbox, jobs=1).has(there)
    collect(world.there, Keep(), progress=SILENT, remove_root=world.sandbox.remove)
    assert Roots(store=world.there, sandbox=world.sandbox, jobs=1).has(there), "gc keeps what a name needs"


def test_what_the_far_machine_has_does_not_travel(world: World) -> None:
    base, torch, code = world.pack().layers
    assert base.far == len(b"A licence that the far machine has too.\n" * 30)
    assert torch.far == len(b"SAME = 1\n" * 500) + (3 << 20), "found under another path, and by content"
    assert torch.patched == len(library(7)) + (3 << 20)
    assert torch.patches < 40_000, "12 MB of two libraries, of which some 6 kB are new"
    assert 200_000 < torch.packed < 210_000, "a stranger of the same name travels whole"
    assert code.far == code.patched == 0
    assert code.packed < 200 < code.size


def test_patches_are_drawn_between_builds_for_two_interpreters(world: World) -> None:
    world.pack()
    plan = world.plan()
    patched = {plan["far"][patch[0]][0] for patch in plan["patches"]}  # type: ignore[index]
    assert patched == {"torch/lib/libtorch_cuda.so", "torch/_C.cpython-312-x86_64-linux-gnu.so"}
    assert LIBRARY.endswith("libtorch_cuda.so")
    assert "cpython-311" in EXTENSION


def test_pieces_are_as_small_as_was_asked(world: World) -> None:
    packed = world.pack(piece_size=100_000)
    sizes = [piece.size for piece in packed.index.pieces]
    assert len(sizes) > 2
    assert set(sizes[:-1]) == {100_000}
    assert 0 < sizes[-1] <= 100_000
    assert [(world.bundle / piece.file).stat().st_size for piece in packed.index.pieces] == sizes
    assert world.deliver().complete


def test_the_same_inputs_give_the_same_bundle(world: World) -> None:
    one, two = world.pack(output="bundle"), world.pack(output="second")
    assert one == two
    names = sorted(path.relative_to(world.bundle) for path in world.bundle.rglob("*") if path.is_file())
    assert Path("recipes/made/v1/recipe.toml") in names
    for name in names:
        assert (world.bundle / name).read_bytes() == (world.folder / "second" / name).read_bytes()


def test_an_inventory_stands_for_the_folder_but_gives_no_patches(world: World) -> None:
    data, count = write_inventory(world.far, jobs=2, progress=SILENT)
    inventory = world.folder / "far.json.gz"
    inventory.write_bytes(data)
    assert count == 8, "the link is no file of its own"
    by_copy, by_list = world.pack(output="second"), world.pack(far=world.have(inventory))
    assert [layer.far for layer in by_list.layers] == [layer.far for layer in by_copy.layers]
    assert all(layer.patched == 0 for layer in by_list.layers)
    assert world.deliver().complete


def test_without_a_far_machine_everything_travels(world: World) -> None:
    far = read_far((), jobs=1, progress=SILENT)
    packed = world.pack(far=far, piece_size=50_000_000)
    assert (packed.far_files, packed.far_bytes) == (0, 0)
    assert packed.index.size > 12_000_000
    assert world.deliver(have=()).complete


def test_a_later_bundle_takes_over_what_did_not_change(world: World) -> None:
    world.pack()
    image = world.image("code two\n")
    for layer in image.layers[:2]:  # not even read again: nothing but the size is looked at
        world.here.layout.path(layer.digest).write_bytes(bytes(layer.size))
    again = world.pack(image)
    assert again.index.manifest.digest == image.manifest
    assert [path.name for path in world.bundle.iterdir() if path.name.startswith(".")] == []
    assert world.deliver().made == image.diff_ids


def test_another_far_machine_or_level_takes_nothing_over(world: World, own_far: Path) -> None:
    world.pack()
    (own_far / "torch/lib/libtorch_cuda.so").unlink()
    assert world.pack(far=world.have(own_far)).layers[1].patched == 3 << 20
    small = world.pack(level=19, far=world.have(own_far)).layers[0].packed
    assert small < world.pack(level=1, far=world.have(own_far)).layers[0].packed


def test_layers_that_are_there_are_not_made_again(world: World) -> None:
    world.pack()
    world.deliver()
    again = world.deliver(have=())
    assert (again.made, len(again.present), again.complete) == ((), 3, True)
