"""Any tree that exists can be walked, sized and removed."""

from __future__ import annotations

import os
import stat

import pytest

from envbuild.bundle.far import walk as far_files
from envbuild.difference.lister import operators
from envbuild.environment.prefix import claim, empty
from envbuild.environment.steps import seal
from envbuild.layers.format import MTIME
from envbuild.oci.trees import DEEPEST, folder_below, folder_size, regular_files, remove_tree, too_long, walk
from envbuild.progress import SilentProgress
from envbuild.sandbox.trees import remove
from envbuild.sandbox.unpack import unpack_layer
from envbuild.store import Store
from envbuild.store.gc import Keep, collect

LEVELS = 1050


@pytest.fixture(autouse=True)
def _nothing_deep_is_left(tmp_path):
    """pytest itself removes old folders with shutil.rmtree."""
    yield
    remove_tree(tmp_path)


def deep(top, name="d", levels=LEVELS):
    """Folders in each other, each with a file, made one by one: no path is longer than the kernel takes."""
    top.mkdir(parents=True)
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=inner))
        os.close(fd)
        fd = inner
    os.close(fd)
    return top


def by_helper(path):
    remove({"path": str(path)}, lambda _amount: None)


@pytest.mark.parametrize(
    ("way", "name"),
    [(remove_tree, "d"), (by_helper, "long" * 50), (empty, "d")],
    ids=["remove_tree", "sandbox, beyond PATH_MAX", "environment"],
)
def test_a_tree_of_any_depth_is_removed(tmp_path, way, name):
    top = deep(tmp_path / "top" / "tree", name)
    way(top.parent)
    assert not top.exists()


def test_links_are_removed_and_never_followed(tmp_path):
    kept = tmp_path / "host"
    kept.mkdir()
    (kept / "file").write_text("kept")
    top = tmp_path / "tree"
    (top / "a").mkdir(parents=True)
    (top / "a/link").symlink_to(kept)
    (top / "self").symlink_to(top)
    remove_tree(top)
    assert (os.listdir(tmp_path), (kept / "file").read_text()) == (["host"], "kept")
    (tmp_path / "link").symlink_to(kept)
    remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == ["host"]
    remove_tree(tmp_path / "link")


def test_what_cannot_be_removed_is_named_or_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as caught:
        remove_tree(tmp_path / "file" / "inner")
    assert caught.value.filename == str(tmp_path / "file" / "inner")
    remove_tree(tmp_path / "file" / "inner", ignore_errors=True)


def test_a_folder_of_the_store_whose_process_died_is_swept_however_deep_it_is(tmp_path):
    with Store.open(tmp_path / "store") as store:
        deep(store.root / "tmp/scratch-dead-0123456789ab")
        store.sweep()
        assert "scratch-dead-0123456789ab" not in os.listdir(store.root / "tmp")
        with store.scratch("mine") as folder:
            deep(folder / "tree")
        assert not folder.exists()


def test_garbage_is_collected_and_roots_are_swept_however_deep_they_are(sandbox, tmp_path):
    with Store.open(tmp_path / "store") as store:
        deep(store.roots / ("0" * 64))
        freed = collect(store, Keep(), progress=SilentProgress(), remove_root=sandbox.remove)
        assert (freed.roots, os.listdir(store.roots)) == (1, [])
        deep(store.roots / f".{'1' * 64}.01234567")
        blob = tmp_path / "layer"
        blob.write_bytes(bytes(1024))
        root = unpack_layer(
            sandbox,
            blob,
            "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
            store.roots,
        )
        assert os.listdir(store.roots) == [root.name]


def test_walking_gives_folders_before_their_content_and_follows_no_link(tmp_path):
    for name in ("a/b/c", "d", "left/out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/link").symlink_to(tmp_path)
    (tmp_path / "d/file").write_text("x")
    found = dict(walk(str(tmp_path), leave="left"))
    assert set(found) == {"a", "a/b", "a/b/c", "a/link", "d", "d/file"}
    assert list(found).index("a/b") < list(found).index("a/b/c")
    assert stat.S_ISLNK(found["a/link"].st_mode)
    assert len(list(walk(str(deep(tmp_path / "deep"))))) == 2 * LEVELS


def test_the_size_of_a_deep_folder_is_counted(tmp_path):
    top = deep(tmp_path / "tree")
    (top / "d/big").write_bytes(bytes(1 << 20))
    assert folder_size(top) >= 1 << 20


def test_an_environment_of_any_depth_is_sealed_and_given_up(tmp_path):
    held = claim(tmp_path / "env", SilentProgress())
    deep(held.path / "lib")
    deep(held.path / "__clobbers__/empty", levels=3)
    (held.path / "__clobbers__/empty/d/d/d/file").unlink()
    host = tmp_path / "host"
    (host / "empty").mkdir(parents=True)
    seal(held, set())
    inner = held.path / "lib" / "/".join("d" * 1000)
    assert (inner.stat().st_mtime, (inner / "file").stat().st_mtime) == (MTIME, MTIME)
    assert not (held.path / "__clobbers__/empty/d/d/d").exists()
    assert (held.path / "__clobbers__/empty/d/d/file").exists()
    remove_tree(held.path / "__clobbers__")
    (held.path / "__clobbers__").symlink_to(host)
    seal(held, set())
    assert (host / "empty").is_dir()
    held.give_up()
    assert not held.path.exists()


def test_operators_are_found_in_a_folder_of_any_depth(tmp_path):
    ops = deep(tmp_path / "deepspeed/ops")
    (ops / "d/fused_adam_op.so").write_bytes(b"")
    assert operators(str(tmp_path), None) == {"fused_adam": []}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/".join("d" * DEEPEST), None),
        ("/".join("d" * (DEEPEST + 1)), "129 folders deep"),
        ("x" * 255, None),
        ("é" * 128, "more than 255 bytes"),
        ("/".join(["x" * 250] * 13), "more than 3072 bytes"),
    ],
)
def test_the_bounds_of_paths(path, reason):
    told = too_long(path)
    assert (told is None) if reason is None else (told is not None and reason in told)


def test_of_a_folder_that_others_wrote_to_only_its_own_files_are_named(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_text("")
    (tmp_path / "out/b").write_text("")
    (tmp_path / "out/a").write_text("")
    (tmp_path / "out/link").symlink_to(tmp_path / "secret")
    (tmp_path / "out/folder").mkdir()
    os.mkfifo(tmp_path / "out/pipe")
    assert regular_files(tmp_path / "out") == ["a", "b"]
    (tmp_path / "linked").symlink_to(tmp_path / "out")
    assert regular_files(tmp_path / "linked") == []
    assert regular_files(tmp_path / "nothing") == []


def test_a_folder_is_reached_without_a_link_on_the_way(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("x")
    (tmp_path / "a/link").symlink_to(tmp_path / "a/b")
    with folder_below(tmp_path, "a/b") as fd:
        assert os.listdir(fd) == ["file"]
    for path in ("a/link", "a/b/file", "a/none"):
        with pytest.raises(OSError, match=r"."), folder_below(tmp_path, path):
            pass


def test_what_the_far_machine_has_is_listed_however_deep_it_lies(tmp_path):
    top = deep(tmp_path / "far")
    found = [name for name, _ in far_files(top)]
    assert found == ["d/" * count + "file" for count in range(1, LEVELS + 1)]
