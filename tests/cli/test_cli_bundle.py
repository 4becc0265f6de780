"""``bundle``, ``unbundle``, ``inventory``: an image goes to a machine without a network, runs there, gets its tag."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from clirun import Cli
from smallimage import REF, SmallWorld
from test_cli_json import documented, keys_of
from verdictmaker import own_key, signed, verdict_about

from envbuild.lock import read_lock
from envbuild.oci.digest import of_bytes
from envbuild.sandbox import Sandbox


@pytest.fixture
def far_site(tmp_path: Path, small: SmallWorld) -> Path:
    """A machine that has the interpreter of the image's base, under another name."""
    site = tmp_path / "far-site"
    site.mkdir()
    base = small.store.layout.path(small.built.image.layers[0].digest)
    with tarfile.open(base, "r:gz") as archive:
        content = archive.extractfile("usr/bin/python3.11")
        assert content is not None
        (site / "interpreter").write_bytes(content.read())
    return site


@pytest.mark.network
def test_from_here_to_there_to_the_tag(
    on_small: Cli, small: SmallWorld, sandbox: Sandbox, far_site: Path, tmp_path: Path
) -> None:
    done = on_small(
        "bundle",
        REF,
        "--have",
        str(far_site),
        "--output",
        "b",
        "--piece-size",
        "9M",
        "--level",
        "3",
        "--json",
    )
    assert done.code == 0, done
    value = done.value
    assert keys_of(value) == documented("envbuild bundle")
    assert value["digest"] == small.built.image.digest
    assert [layer["diff_id"] for layer in value["layers"]] == [x.diff_id for x in small.built.image.layers]
    assert all(
        layer["size"] == layer["far"] + layer["patched"] + layer["literal"] for layer in value["layers"]
    )
    assert value["far"] == {"files": 1, "bytes": (far_site / "interpreter").stat().st_size}
    pieces = [piece["file"] for piece in value["pieces"]]
    assert len(pieces) > 3

    there = Cli(folder=tmp_path, env={**on_small.env, "ENVBUILD_STORE": str(tmp_path / "far-store")})
    last = tmp_path / "b" / pieces[-1]
    last.rename(tmp_path / "late")
    there.fails(5, "bundle-incomplete", "unbundle", "b", "--have", str(far_site))
    first = there("unbundle", "b", "--have", str(far_site), "--partial", "--json")
    assert (first.code, first.value["complete"], first.value["missing"]) == (0, False, [pieces[-1]])
    assert keys_of(first.value) == documented("envbuild unbundle")
    (tmp_path / "late").rename(last)
    try:
        second = there("unbundle", "b", "--have", str(far_site))
        assert second.code == 0, second
        assert small.built.image.digest in second.out
        assert "envbuild smoke small:v1" in second.err
        run = there(
            "run", "--engine", "sandbox", REF, "--", "python", "-c", "import torch; print(torch.VERSION)"
        )
        assert (run.code, run.out) == (0, "2.7.1\n"), run

        recipes = Path(on_small.env["ENVBUILD_RECIPES"])
        lock = read_lock(recipes / "small/v1/lock.json")
        key = own_key(Path(on_small.env["HOME"]))
        (tmp_path / "verdict.json").write_bytes(
            signed(verdict_about(small.built.image, lock, REF, recipes), key)
        )
        promoted = there("promote", REF, "--verdict", "verdict.json", "--json")
        assert promoted.code == 0, promoted
        assert promoted.value["tags"] == ["small:v1-candidate", "small:v1"]
        index = json.loads((tmp_path / "far-store/oci/index.json").read_text())
        names = {
            item["annotations"]["org.opencontainers.image.ref.name"]: item["digest"]
            for item in index["manifests"]
        }
        assert names == dict.fromkeys(["small:v1-candidate", "small:v1"], small.built.image.digest)
    finally:
        for root in (tmp_path / "far-store/roots").iterdir():
            sandbox.remove(root)


@pytest.mark.network
def test_a_bundle_of_another_image_than_the_lock_here(
    on_small: Cli, small: SmallWorld, tmp_path: Path
) -> None:
    assert on_small("bundle", REF, "--output", "b", "--level", "1").code == 0
    bundle = tmp_path / "b"
    assert (bundle / "recipes/small/v1/lock.json").read_bytes() == (
        Path(on_small.env["ENVBUILD_RECIPES"]) / "small/v1/lock.json"
    ).read_bytes()
    lock_path = Path(on_small.env["ENVBUILD_RECIPES"]) / "small/v1/lock.json"
    assert read_lock(lock_path).image == small.built.lock
    index = json.loads((bundle / "index.json").read_text())
    text = index["manifest"]["text"].replace("2026-01-02", "2026-01-03")
    index["manifest"] = {"text": text, "digest": of_bytes(text.encode())}
    (bundle / "index.json").write_text(json.dumps(index))
    there = replace(on_small, env={**on_small.env, "ENVBUILD_STORE": str(tmp_path / "far-store")})
    failed = there.fails(5, "bundle-of-another-image", "unbundle", "b")
    assert small.built.image.digest in failed.err
    assert not (tmp_path / "far-store").exists()


def test_inventory(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/a.py").write_text("A = 1\n")
    done = cli("inventory", "site", "--output", "far.json.gz", "--json")
    assert keys_of(done.value) == documented("envbuild inventory")
    assert done.value == {"files": 1, "output": "far.json.gz"}
    cli.fails(2, "no-such-folder", "inventory", "nowhere", "--output", "far.json.gz")
    cli.fails(2, "cannot-write", "inventory", "site", "--output", "nowhere/far.json.gz")


@pytest.mark.parametrize("size", ["0", "12", "60X", "-1", ""])
def test_a_piece_size_that_is_none(cli: Cli, size: str) -> None:
    cli.fails(2, "bad-piece-size", "bundle", "pytorch-cuda:v2.7", "--output", "b", "--piece-size", size)
    assert not (cli.folder / "b").exists()


def test_a_have_that_is_not_there(cli: Cli) -> None:
    cli.fails(2, "no-such-folder", "bundle", "pytorch-cuda:v2.7", "--output", "b", "--have", "nowhere")
    assert not (cli.folder / "b").exists()


def test_no_bundle(cli: Cli, tmp_path: Path) -> None:
    cli.fails(2, "no-bundle", "unbundle", "nowhere")
    (tmp_path / "empty").mkdir()
    cli.fails(2, "no-bundle", "unbundle", "empty", "--json")
    cli.fails(2, "usage", "unbundle")
    cli.fails(2, "usage", "bundle", "pytorch-cuda:v2.7")
    shutil.rmtree(tmp_path / "empty")
