"""A bundle, an inventory or a folder that means harm: one error, and nothing of this machine is touched."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from bundlemaker import NAME, World

from envbuild.bundle import Order, deliver
from envbuild.bundle.delta import apply
from envbuild.bundle.far import read_inventory
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import of_bytes
from envbuild.progress import SilentProgress

BAD_DIGESTS = [
    "",
    "/etc",
    "sha256:",
    "sha256:../../x",
    "sha256:" + "A" * 64,
    "sha256:" + "0" * 64 + "\n",
    "0" * 64,
]
DEEP = b"[" * 100_000


def refused(id: str, exit: Exit, run: Callable[[], object]) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        run()
    assert (caught.value.id, caught.value.exit) == (id, exit), caught.value.message
    assert caught.value.hint
    return caught.value


def document(value: object) -> dict[str, str]:
    text = value.decode() if isinstance(value, bytes) else json.dumps(value)
    return {"digest": of_bytes(text.encode()), "text": text}


def piece(name: str, data: bytes) -> dict[str, object]:
    return {"file": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def config_of(*diff_ids: object) -> dict[str, str]:
    return document({"rootfs": {"diff_ids": diff_ids}})


def manifest_of(config: dict[str, str], layers: int, **more: object) -> dict[str, str]:
    entries = [{"digest": of_bytes(b"layer"), "size": 5} for _ in range(layers)]
    return document({"config": {"digest": config["digest"], "size": 1}, "layers": entries, **more})


def write_bundle(
    folder: Path,
    diff_id: object,
    *,
    plan: bytes | None = None,
    config: dict[str, str] | None = None,
    manifest: dict[str, str] | None = None,
) -> Path:
    """A bundle of one empty layer, made by hand: about 1 kB."""
    folder.mkdir(parents=True)
    if plan is None:
        layer = {"diff_id": diff_id, "size": 0, "literal": None, "parts": []}
        plan = json.dumps({"far": [], "patches": [], "layers": [layer]}).encode()
    packed = zstandard.ZstdCompressor().compress(plan)
    (folder / "plan.zst").write_bytes(packed)
    config = config or config_of(diff_id)
    index = {
        "kind": "envbuild.bundle",
        "format": 1,
        "ref": "made:v1",
        "manifest": manifest or manifest_of(config, 1),
        "config": config,
        "inputs": of_bytes(b""),
        "plan": piece("plan.zst", packed),
        "pieces": [],
    }
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / "index.json").read_bytes())
    change(value)
    (folder / "index.json").write_text(json.dumps(value))


def take(world: World, folder: Path, *have: Path) -> object:
    order = Order(folders=(folder,), have=have, name=NAME, partial=False, jobs=1)
    return deliver(order, world.there, world.sandbox, SilentProgress())


def test_a_layer_named_by_a_path_deletes_nothing_beside_it(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home" / "me"
    for name in (".ssh", ".config", ".cache", "x"):
        (home / name / "deep").mkdir(parents=True)
    for diff_id in (str(home / "x"), str(home / "new"), f"sha256:{home}/new"):
        folder = write_bundle(tmp_path / f"bundle-{hashlib.sha256(diff_id.encode()).hexdigest()}", diff_id)
        refused("bad-bundle", Exit.VERIFY, lambda folder=folder: take(world, folder))
    assert sorted(os.listdir(home)) == [".cache", ".config", ".ssh", "x"]
    assert all((home / name / "deep").is_dir() for name in os.listdir(home))
    assert world.there.layout.tags() == {}


def test_a_folder_of_this_machine_is_no_finished_layer(world: World, tmp_path: Path) -> None:
    error = refused("bad-bundle", Exit.VERIFY, lambda: take(world, write_bundle(tmp_path / "b", "/etc")))
    assert "a sha256 digest" in error.message
    assert "$.rootfs.diff_ids[0]" in error.message
    assert world.there.layout.tags() == {}


def test_the_bundle_made_by_hand_is_otherwise_right(world: World, tmp_path: Path) -> None:
    """What the other tests spoil: else they would be refused for something else."""
    error = refused(
        "layer-differs", Exit.VERIFY, lambda: take(world, write_bundle(tmp_path / "b", of_bytes(b"x")))
    )
    assert of_bytes(b"x") in error.message


@pytest.mark.parametrize("bad", BAD_DIGESTS)
@pytest.mark.parametrize(
    "change",
    [
        lambda index, bad: index["manifest"].update(digest=bad),
        lambda index, bad: index["config"].update(digest=bad),
        lambda index, bad: index["plan"].update(sha256=bad if bad != "0" * 64 else "x" * 64),
        lambda index, bad: index.update(config=config_of(bad)),
        lambda index, bad: index.update(manifest=manifest_of(index["config"], 1, subject={"digest": bad})),
        lambda index, bad: index.update(
            manifest=document({"config": {"digest": index["config"]["digest"]}, "layers": [{"digest": bad}]})
        ),
        lambda index, bad: index.update(
            manifest=document({"config": {"digest": bad}, "layers": [{"digest": bad}]})
        ),
    ],
    ids=["manifest", "config", "plan", "diff_id", "subject", "layer", "the manifest's config"],
)
def test_what_is_no_digest_in_an_index_is_refused(
    world: World, tmp_path: Path, change: Callable[[dict[str, Any], str], object], bad: str
) -> None:
    folder = write_bundle(tmp_path / "b", of_bytes(b"x"))
    edit_index(folder, lambda index: change(index, bad))
    refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".", "a//b", "a\0b"])
def test_a_far_file_lies_in_the_folder_that_is_given(world: World, tmp_path: Path, path: str) -> None:
    layer = {"diff_id": of_bytes(b"x"), "size": 1, "literal": None, "parts": [[1, 0]]}
    plan = {"far": [[path, 1, "0" * 64]], "patches": [], "layers": [layer]}
    folder = write_bundle(tmp_path / "b", of_bytes(b"x"), plan=json.dumps(plan).encode())
    error = refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder, tmp_path))
    assert "no relative path" in error.message
    inventory = tmp_path / "inventory"
    inventory.write_text(json.dumps([[path, 1, "0" * 64]]))
    refused("bad-inventory", Exit.INPUT, lambda: read_inventory(inventory))


def test_a_far_file_that_is_a_fifo_is_not_waited_for(world: World, tmp_path: Path) -> None:
    (tmp_path / "have").mkdir()
    os.mkfifo(tmp_path / "have" / "pipe")
    empty = hashlib.sha256(b"").hexdigest()
    layer = {"diff_id": of_bytes(b"x"), "size": 0, "literal": None, "parts": [[1, 0]]}
    plan = {"far": [["pipe", 0, empty]], "patches": [], "layers": [layer]}
    folder = write_bundle(tmp_path / "b", of_bytes(b"x"), plan=json.dumps(plan).encode())
    refused("far-file-differs", Exit.VERIFY, lambda: take(world, folder, tmp_path / "have"))


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
@pytest.mark.parametrize("name", ["index.json", "plan.zst", "piece-001"])
def test_a_file_of_a_bundle_that_is_something_else_is_not_read(
    world: World, tmp_path: Path, name: str, kind: str
) -> None:
    folder = write_bundle(tmp_path / "b", of_bytes(b"x"))
    empty = {"file": name, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    if name == "plan.zst":
        edit_index(folder, lambda index: index.update(plan=empty))
    elif name == "piece-001":
        edit_index(folder, lambda index: index.update(pieces=[empty]))
    (folder / name).unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("/dev/zero")
    if name == "index.json":
        refused("no-bundle", Exit.USAGE, lambda: take(world, folder))
    else:
        refused("piece-damaged", Exit.VERIFY, lambda: take(world, folder))


def test_a_plan_that_inflates_without_end_is_not_inflated(world: World, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", of_bytes(b"x"), plan=bytes((64 << 20) + 1))
    assert (folder / "plan.zst").stat().st_size < 10_000
    error = refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))
    assert "more than" in error.message


def test_a_manifest_that_is_too_large_to_be_read_again_is_refused(world: World, tmp_path: Path) -> None:
    config = config_of(of_bytes(b"x"))
    manifest = document(manifest_of(config, 1)["text"].encode() + b" " * (4 << 20))
    error = refused(
        "bad-bundle",
        Exit.VERIFY,
        lambda: take(world, write_bundle(tmp_path / "b", of_bytes(b"x"), manifest=manifest)),
    )
    assert "the manifest has more than" in error.message


def test_a_window_that_no_plan_needs_is_refused(world: World, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", of_bytes(b"x"))
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)
    stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    data = stream.compress(b"{}") + stream.flush()
    (folder / "plan.zst").write_bytes(data)
    edit_index(folder, lambda index: index.update(plan=piece("plan.zst", data)))
    refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))


@pytest.mark.parametrize(
    "patch",
    [
        [0, 1 << 50, 0, []],
        [0, 1, 0, [[1 << 40, []]]],
        [0, 1, 0, [[1, [[0, 1 << 40]]]]],
        [0, 1, 0, [[-1, []]]],
        [0, -1, 0, []],
    ],
    ids=["a big file without frames", "a big frame", "a big dictionary", "negative", "negative size"],
)
def test_a_patch_takes_no_more_memory_than_packing_makes_one_of(
    world: World, tmp_path: Path, patch: list[object]
) -> None:
    layer = {"diff_id": of_bytes(b"x"), "size": patch[1], "literal": None, "parts": [[2, 0]]}
    plan = {"far": [["a", 1, "0" * 64]], "patches": [patch], "layers": [layer]}
    folder = write_bundle(tmp_path / "b", of_bytes(b"x"), plan=json.dumps(plan).encode())
    refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))


def test_a_patch_that_is_named_again_and_again_is_refused_in_a_moment(world: World, tmp_path: Path) -> None:
    """Twice as many names and twice as many frames took four times as long; a plan may have millions of both."""
    size = 5_000 * (4 << 20)
    layer = {"diff_id": of_bytes(b"x"), "size": 5_000 * size, "literal": None, "parts": [[2, 0]] * 5_000}
    plan = {"far": [["a", 1, "0" * 64]], "patches": [[0, size, 0, [[0, []]] * 5_000]], "layers": [layer]}
    folder = write_bundle(tmp_path / "b", of_bytes(b"x"), plan=json.dumps(plan).encode())
    started = time.process_time()
    error = refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))
    assert "more than" in error.message
    layer["size"] = 1
    folder = write_bundle(tmp_path / "c", of_bytes(b"x"), plan=json.dumps(plan).encode())
    refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))
    assert time.process_time() - started < 1


def test_a_frame_that_claims_much_is_not_believed() -> None:
    frame = zstandard.ZstdCompressor().compress(b"x")
    claims = b"\x28\xb5\x2f\xfd\xe0" + (1 << 45).to_bytes(8, "little") + frame[6:]
    with pytest.raises(zstandard.ZstdError):
        apply(memoryview(b"old"), [], claims, 1)
    assert apply(memoryview(b"old"), [], frame, 1) == b"x"


@pytest.mark.parametrize(
    "data",
    [
        DEEP,
        b'{"kind": ' + DEEP,
        b'{"more": ' + DEEP,
        b"\0",
        b"1" * 10_000,
        b'"\\ud800"',
        b"",
        b'{"kind": "envbuild.bundle", "format": 1e999}',
    ],
    ids=[
        "nested",
        "nested inside",
        "nested in a stranger",
        "nul",
        "a long number",
        "half a character",
        "empty",
        "huge",
    ],
)
def test_documents_that_are_none_give_one_error(world: World, tmp_path: Path, data: bytes) -> None:
    folder = write_bundle(tmp_path / "b", of_bytes(b"x"), plan=data)
    refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))
    (folder / "index.json").write_bytes(data)
    refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))
    inventory = tmp_path / "inventory"
    inventory.write_bytes(data)
    refused("bad-inventory", Exit.INPUT, lambda: read_inventory(inventory))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    folder = write_bundle(tmp_path / "c", of_bytes(b"x"), config=document(text.encode()))
    refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))
    config = config_of(of_bytes(b"x"))
    folder = write_bundle(tmp_path / "d", of_bytes(b"x"), manifest=document(text.encode()))
    edit_index(folder, lambda index: index.update(config=config))
    refused("bad-bundle", Exit.VERIFY, lambda: take(world, folder))


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b" " * ((256 << 20) + 1), 1),
        gzip.compress(b"[]")[:-9],
        b"\x1f\x8b\x08\0\0\0\0\0\0\0\xff\xff",
        json.dumps([["a", 1, "/etc"]]).encode(),
        json.dumps([["a", -1, "0" * 64]]).encode(),
        json.dumps([["a", 1]]).encode(),
    ],
    ids=["inflates", "cut", "not gzip", "no hash", "negative", "short"],
)
def test_an_inventory_that_is_none_gives_one_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "inventory"
    path.write_bytes(data)
    refused("bad-inventory", Exit.INPUT, lambda: read_inventory(path))


def test_a_file_name_that_is_not_utf8_is_left_out(world: World, tmp_path: Path) -> None:
    have = tmp_path / "own"
    have.mkdir()
    (have / "good").write_bytes(b"x" * 300)
    (have / os.fsdecode(b"\xff")).write_bytes(b"y" * 300)
    far = world.have(have)
    assert [known.file.path for known in far.by_hash.values()] == ["good"]
    world.pack(far=far)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: (folder / "recipes" / "mine").mkdir(parents=True),
        lambda folder: (folder / ".earlier" / "mine").mkdir(parents=True),
        lambda folder: (folder / "piece-of-mine").mkdir(parents=True),
        lambda folder: (folder / "piece-001" / "mine").mkdir(parents=True),
        lambda folder: (folder / "plan.zst" / "mine").mkdir(parents=True),
        lambda folder: (folder / "index.json").write_text('{"mine": 1}'),
    ],
    ids=[
        "recipes",
        "earlier",
        "a name like a piece",
        "a folder as piece",
        "a folder as plan",
        "another index",
    ],
)
def test_packing_removes_only_what_packing_made(world: World, make: Callable[[Path], object]) -> None:
    world.bundle.mkdir()
    make(world.bundle)
    before = sorted(str(path) for path in world.bundle.rglob("*"))
    refused("output-not-empty", Exit.USAGE, world.pack)
    assert sorted(str(path) for path in world.bundle.rglob("*")) == before


def test_a_bundle_of_its_own_is_replaced_with_its_recipes(world: World) -> None:
    world.pack()
    world.pack(world.image("code two\n"))
    (world.bundle / "index.json").unlink()
    assert world.pack().index.pieces
    assert msgspec.json.decode((world.bundle / "index.json").read_bytes())["kind"] == "envbuild.bundle"
