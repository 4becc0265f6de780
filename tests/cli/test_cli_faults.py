"""What goes wrong in recipes, locks, verdicts, stores and networks: one error, the right exit code, a next step."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clirun import NOWHERE, Cli
from smallimage import COMMITTED, REF, make_wheel, small_lock, small_recipes, wheel_artifact

from envbuild.cli.image_command import _on_another_base
from envbuild.lock import lock_bytes, read_lock
from envbuild.recipe import load_recipe, parse_ref

V27 = "pytorch-cuda:v2.7"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def recipe(recipes: Path) -> Path:
    return recipes / "pytorch-cuda/v2.7/recipe.toml"


# recipes and locks


@pytest.mark.parametrize("command", ["image", "run", "smoke", "lock", "render"])
def test_a_recipe_that_does_not_exist(cli: Cli, command: str) -> None:
    done = cli.fails(3, "no-recipe", command, "pytorch-cuda:v2.8")
    assert "Did you mean pytorch-cuda:v2.7?" in done.err


@pytest.mark.parametrize("ref", ["Pytorch", "a:b:c", ":v2.7", "../x:v1", "x:", "Ü:v1"])
def test_a_reference_that_is_none(cli: Cli, ref: str) -> None:
    cli.fails(2, "wrong-reference", "image", ref)


def test_a_misspelt_key_is_named_by_file_and_line(cli: Cli, recipe: Path) -> None:
    edit(recipe, "cudnn =", "cuddn =")
    line = recipe.read_text().splitlines().index('cuddn = "9.5.1.17"') + 1
    done = cli("image", V27)
    assert done.code == 3
    assert f"{recipe}:{line}" in done.err
    assert "cudnn" in done.err


@pytest.mark.parametrize(
    "command", [["image"], ["lock", "--check"], ["render"], ["export", "--format=layers"]]
)
def test_a_stale_lock_says_what_differs(cli: Cli, recipe: Path, command: list[str]) -> None:
    edit(recipe, 'version = "0.22.1"' if "0.22.1" not in recipe.read_text() else '"0.22.1"', '"0.22.0"')
    done = cli.fails(3, "lock-is-stale", *command, V27)
    assert 'torch.torchvision: the recipe has "0.22.0", the lock "0.22.1"' in done.err
    assert f"run `envbuild lock {V27}`" in done.err


def test_list_shows_a_stale_and_a_missing_lock(cli: Cli, recipe: Path) -> None:
    assert cli("list", "--json").value[0]["lock"] == "ok"
    edit(recipe, "gpus = 2", "gpus = 3")
    assert cli("list", "--json").value[0]["lock"] == "stale"
    recipe.with_name("lock.json").unlink()
    [row] = cli("list", "--json").value
    assert (row["lock"], row["image"]) == ("missing", None)


def test_forgetting_what_was_built_keeps_the_inputs(cli: Cli, recipe: Path) -> None:
    """With unchanged inputs no index is asked."""
    path = recipe.with_name("lock.json")
    before = read_lock(path)
    assert before.image is not None
    assert before.native is not None
    assert cli("lock", V27, "--forget-built").code == 0
    assert read_lock(path) == replace(before, image=None, native=replace(before.native, wheel=None))


def test_another_base_cannot_be_verified_against_the_lock(cli: Cli) -> None:
    base = f"127.0.0.1:9/base@sha256:{'0' * 64}"
    cli.fails(2, "verify-another-base", "image", V27, "--base", base, "--verify")


def test_a_base_without_digest_is_refused(cli: Cli) -> None:
    done = cli("image", V27, "--base", "nvidia/cuda:12.6.3-base-ubuntu24.04")
    assert done.code == 2
    assert "digest" in done.err


def test_an_image_on_another_base_gets_no_tag() -> None:
    proof = _on_another_base(load_recipe(parse_ref(V27), [COMMITTED.parents[2]]))
    assert (proof.promoted, proof.tags) == (False, (f"{V27}-candidate",))
    assert "the image that the lock names" in proof.next_step(V27)


def test_a_missing_lock(cli: Cli, recipe: Path) -> None:
    recipe.with_name("lock.json").unlink()
    assert f"run `envbuild lock {V27}`" in cli.fails(3, "no-lock", "image", V27).err


@pytest.mark.parametrize("keep", [0, 1000, -3])
def test_a_lock_that_is_cut_off(cli: Cli, recipe: Path, keep: int) -> None:
    path = recipe.with_name("lock.json")
    path.write_bytes(path.read_bytes()[:keep])
    assert str(path) in cli.fails(3, "lock-broken", "image", V27).err


def test_an_edited_digest_is_refused_before_anything_is_fetched(cli: Cli, recipe: Path) -> None:
    path = recipe.with_name("lock.json")
    lock = read_lock(path)
    assert lock.image is not None
    edit(path, lock.image.digest, "sha256:" + "0" * 64)
    cli.fails(5, "lock-contradicts-itself", "image", V27)


def test_lock_check_writes_nothing_and_needs_no_network(cli: Cli, recipe: Path) -> None:
    before = {path.name: path.read_bytes() for path in recipe.parent.iterdir()}
    done = cli("lock", V27, "--check", "--quiet")
    assert (done.code, done.err) == (0, "")
    edit(recipe.with_name("requirements.txt"), "numpy==", "numpy===")
    cli.fails(3, "requirements-differ", "lock", V27, "--check")
    edit(recipe.with_name("requirements.txt"), "numpy===", "numpy==")
    assert {path.name: path.read_bytes() for path in recipe.parent.iterdir()} == before


def test_render_check_names_file_and_line(cli: Cli) -> None:
    assert cli("render", V27, "--output", "out").code == 0
    done = cli("render", V27, "--output", "out", "--check", "--quiet")
    assert (done.code, done.out, done.err) == (0, "every file agrees\n", "")
    [dockerfile] = (cli.folder / "out/dockerfiles").glob("*.Dockerfile")
    lines = dockerfile.read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines, 1) if line.startswith("ENV"))
    dockerfile.write_text("".join([*lines[: at - 1], "# edited\n", *lines[at - 1 :]]))
    done = cli.fails(3, "rendering-differs", "render", V27, "--output", "out", "--check")
    found = re.search(rf"dockerfiles/{re.escape(dockerfile.name)}:(\d+):", done.err)
    assert found
    assert 0 <= at - int(found[1]) <= 1
    assert "-# edited" in done.err


def test_export(cli: Cli, recipe: Path) -> None:
    done = cli("export", V27, "--format", "requirements")
    assert done.out == recipe.with_name("requirements.txt").read_text()
    lock = read_lock(recipe.with_name("lock.json"))
    assert lock.image is not None
    rows = cli("export", V27, "--format", "layers").value
    assert [row["diff_id"] for row in rows] == [layer.diff_id for layer in lock.image.layers]


# GPUs


def test_smoke_refuses_more_gpus_than_there_are(cli: Cli) -> None:
    done = cli.fails(7, "too-few-gpus", "smoke", V27, "--gpus", "800")
    assert "800 GPUs were asked for" in done.err
    assert not (cli.folder / "store").exists()


# stores


def test_a_store_that_may_not_be_written(cli: Cli, unprivileged) -> None:
    store = cli.folder / "closed"
    store.mkdir(mode=0o700)
    code = "import sys; from envbuild.cli import main; main(sys.argv[1:])"
    done = unprivileged.run(code, "gc", "--store", str(store))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error[")
    assert str(store) in done.stderr
    assert " hint: " in done.stderr


def test_a_store_that_is_a_file_or_somebody_else_s_folder(cli: Cli) -> None:
    (cli.folder / "file").write_text("")
    assert cli("gc", "--store", "file").code == 2
    assert cli("gc", "--store", str(cli.folder)).code == 2
    assert (cli.folder / "recipes").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


# networks


@pytest.fixture
def mirrored(cli: Cli) -> Callable[[str, bytes], Cli]:
    """``small:v1``, locked to one wheel, and a mirror that has what is put into it."""
    recipes = small_recipes(cli.folder / "small")
    mirror = cli.folder / "mirror"
    mirror.mkdir()

    def put(extra: str, served: bytes | None) -> Cli:
        small_lock(recipes, [], [wheel_artifact("torch", "2.7.1", extra)])
        file, data = make_wheel("torch", "2.7.1", extra)
        (mirror / file).write_bytes(data if served is None else served)
        env = {"ENVBUILD_RECIPES": str(recipes), "ENVBUILD_ARTIFACT_MIRROR": mirror.as_uri()}
        return replace(cli, env={**cli.env, **env})

    return put


def test_an_index_that_is_down(cli: Cli) -> None:
    done = cli("image", V27)
    assert done.code == 4
    assert done.err.count("error[") == 1
    assert "ENVBUILD_PYTHON_INDEX" in done.err
    assert NOWHERE not in done.err.partition("error[")[2].partition(" hint:")[2]


def test_wrong_bytes_name_the_artifact_what_was_expected_and_what_came(mirrored) -> None:
    file, right = make_wheel("torch", "2.7.1")
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    cli = mirrored("", wrong)
    done = cli("image", REF, "--quiet")
    assert done.code == 5
    assert done.out == ""
    assert done.err.startswith("error[")
    assert file in done.err
    for data in (right, wrong):
        assert hashlib.sha256(data).hexdigest() in done.err
    kept = {path.name for path in (cli.folder / "store/artifacts/sha256").iterdir()}
    assert kept == set()


def test_a_disk_that_is_too_small(mirrored, small_disk: Path) -> None:
    noise = "".join(f"# {hashlib.sha256(bytes([n % 256, n // 256])).hexdigest()}\n" for n in range(60_000))
    cli = mirrored(noise, None)
    done = cli("image", REF, "--store", str(small_disk), "--quiet")
    assert done.code == 7, done
    assert "No space left" in done.err or "full" in done.err
    assert done.err.count("error[") == 1
    assert " hint: " in done.err


def test_ctrl_c_ends_with_130_and_leaves_no_process(cli: Cli) -> None:
    """The index takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        env = {**cli.env, "ENVBUILD_PYTHON_INDEX": f"http://127.0.0.1:{port}/simple"}
        process = subprocess.Popen(
            cli.argv("image", V27), env=env, cwd=cli.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        server.settimeout(60)
        connection, _ = server.accept()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert err.rstrip().endswith("stopped; running the same command again goes on from here")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# the store's garbage


def test_gc_keeps_what_a_lock_names_and_removes_the_rest(cli: Cli) -> None:
    done = cli("gc", "--json")
    assert done.value == {"artifacts": 0, "blobs": 0, "roots": 0, "records": 0, "bytes": 0}
    recipes = small_recipes(cli.folder / "small")
    kept, lost = (make_wheel("torch", "2.7.1", extra)[1] for extra in ("", "# other\n"))
    small_lock(recipes, [], [wheel_artifact("torch", "2.7.1")])
    folder = cli.folder / "store/artifacts/sha256"
    for data in (kept, lost):
        (folder / hashlib.sha256(data).hexdigest()).write_bytes(data)
    done = cli("gc", "--json", "--recipes", str(recipes))
    assert done.value["artifacts"] == 1
    assert done.value["bytes"] == len(lost)
    assert [path.name for path in folder.iterdir()] == [hashlib.sha256(kept).hexdigest()]
    assert cli("gc", "--all", "--json", "--recipes", str(recipes)).value["artifacts"] == 1


def test_gc_removes_nothing_where_a_lock_cannot_be_read(cli: Cli, recipe: Path) -> None:
    cli("gc")
    path = cli.folder / "store/artifacts/sha256" / hashlib.sha256(b"x").hexdigest()
    path.write_bytes(b"x")
    recipe.with_name("lock.json").write_text("{")
    cli.fails(3, "lock-broken", "gc")
    assert path.exists()


def test_quiet_says_nothing_when_all_is_well(cli: Cli) -> None:
    for arguments in (
        ["list"],
        ["gc"],
        ["lock", V27, "--check"],
        ["doctor"],
        ["export", V27, "--format=layers"],
    ):
        done = cli(*arguments, "--quiet")
        assert (done.code, done.err) == (0, ""), arguments
        assert done.out


def test_the_small_lock_reads_back(cli: Cli) -> None:
    """What the tests above lock to is a sound lock."""
    recipes = small_recipes(cli.folder / "small")
    lock = small_lock(recipes, [], [wheel_artifact("torch", "2.7.1")])
    path = recipes / "small/v1/lock.json"
    assert read_lock(path) == lock
    assert lock_bytes(lock) == path.read_bytes()


def test_a_lock_of_the_format_before_must_be_built_again(cli: Cli, recipes: Path) -> None:
    """Its inputs hold, so that nothing is resolved again; only its digests do not."""
    path = recipes / "pytorch-cuda/v2.7/lock.json"
    document = json.loads(path.read_bytes())
    for layer in document["image"]["layers"] if document["image"] else ():
        layer.pop("toc", None)
        layer.pop("tar_size", None)
    path.write_text(json.dumps({**document, "format": 1}))
    done = cli.fails(3, "lock-is-older", "lock", V27, "--check")
    assert "must be built again" in done.err
    assert f"`envbuild image {V27}`" in done.err
    assert json.loads(path.read_bytes())["format"] == 1
