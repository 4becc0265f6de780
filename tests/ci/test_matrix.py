"""``envbuild matrix``: what CI has to build, and what changed since a commit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from checkout import Checkout
from clirun import ROOT, Cli, Done

from envbuild.lock import read_lock

FAMILY = ("v2.7", "v2.7-devel", "v2.8")


@pytest.fixture
def cli(checkout: Checkout) -> Cli:
    """Two recipes, a variant of one of them, and one that makes no image."""
    for tag in FAMILY:
        shutil.copytree(ROOT / "recipes/pytorch-cuda" / tag, checkout.folder / "recipes/pytorch-cuda" / tag)
    shutil.copytree(ROOT / "recipes/ds-train", checkout.folder / "recipes/ds-train")
    checkout.commit("recipes")
    return Cli(folder=checkout.folder, env={**checkout.env, "ENVBUILD_RECIPES": "recipes"})


def entries(done: Done) -> dict[str, dict[str, Any]]:
    assert done.code == 0, done
    assert list(done.value) == ["include"]
    return {entry["ref"]: entry for entry in done.value["include"]}


def refs(cli: Cli, *arguments: str) -> list[str]:
    return [ref.removeprefix("pytorch-cuda:") for ref in entries(cli("matrix", "--json", *arguments))]


def edit(checkout: Checkout, tag: str, old: str, new: str, file: str = "recipe.toml") -> None:
    path = checkout.folder / "recipes/pytorch-cuda" / tag / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_entry_for_each_recipe_that_makes_an_image(cli: Cli) -> None:
    found = entries(cli("matrix", "--json"))
    assert [ref.partition(":")[2] for ref in found] == list(FAMILY)
    base, devel = found["pytorch-cuda:v2.7"], found["pytorch-cuda:v2.7-devel"]
    lock = read_lock(cli.folder / "recipes/pytorch-cuda/v2.7/lock.json")
    assert lock.image is not None
    assert (base["digest"], base["lock"], base["conda_lock"]) == (lock.image.digest, "ok", "ok")
    assert (base["devel"], base["needs"], base["environment"]) == (False, None, True)
    assert (devel["devel"], devel["needs"], devel["name"], devel["tag"]) == (
        True, "pytorch-cuda:v2.7", "pytorch-cuda", "v2.7-devel",
    )  # fmt: skip
    assert base["gpus"] == 2
    artifacts = sum(a.size for a in (*lock.debian, *lock.python))
    assert artifacts < base["fetch"] < 2 * artifacts
    assert base["fetch"] + sum(layer.size for layer in lock.image.layers) < base["disk"]
    assert base["runner"] == "standard"


def test_a_matrix_of_github_holds_plain_values(cli: Cli) -> None:
    """What fromJSON makes of it: each key becomes matrix.KEY, so every entry has the same keys and no object in it."""
    every = list(entries(cli("matrix", "--json")).values())
    assert len({tuple(entry) for entry in every}) == 1
    assert not [value for entry in every for value in entry.values() if isinstance(value, dict | list)]


def test_the_reference_has_every_key(cli: Cli) -> None:
    page = (ROOT / "docs/reference/json.md").read_text()
    section = page.partition("\n## envbuild matrix\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`include\[\]\.([a-z_]+)`", section))
    assert documented == set(entries(cli("matrix", "--json"))["pytorch-cuda:v2.7"])


def test_the_table(cli: Cli) -> None:
    done = cli("matrix")
    head, *rows = done.out.splitlines()
    assert head.split()[:3] == ["REF", "IMAGE", "LOCK"]
    assert [row.split()[0].partition(":")[2] for row in rows] == list(FAMILY)
    assert done.err == ""


def test_patterns_select(cli: Cli) -> None:
    assert refs(cli, "*:v2.7*") == ["v2.7", "v2.7-devel"]
    assert refs(cli, "pytorch-cuda:v2.8") == ["v2.8"]
    assert refs(cli, "pytorch-cuda") == list(FAMILY)
    assert refs(cli, "pytorch-cuda:v2.8", "*-devel") == ["v2.7-devel", "v2.8"]


@pytest.mark.parametrize("pattern", ["pytorch-cuda:v2.9", "ds-train:v2.7", "v2.7"])
def test_a_pattern_that_matches_nothing_is_a_mistake(cli: Cli, pattern: str) -> None:
    assert pattern in cli.fails(3, "no-recipe", "matrix", pattern).err
    assert 'Did you mean "pytorch-cuda:v2.8"' in cli.fails(3, "no-recipe", "matrix", "pytorch-cuda:v2.88").err


def test_a_variant_stands_behind_what_it_extends(cli: Cli, checkout: Checkout) -> None:
    (checkout.folder / "recipes/pytorch-cuda/v2.7-devel").rename(
        checkout.folder / "recipes/pytorch-cuda/a-variant"
    )
    (checkout.folder / "recipes/pytorch-cuda/a-variant/lock.json").unlink()
    assert refs(cli) == ["v2.7", "a-variant", "v2.8"]


def test_what_is_not_locked_has_no_digest(cli: Cli, checkout: Checkout) -> None:
    (checkout.folder / "recipes/pytorch-cuda/v2.8/lock.json").unlink()
    edit(checkout, "v2.7", "gpus = 2", "gpus = 4")
    found = entries(cli("matrix", "--json"))
    gone, stale = found["pytorch-cuda:v2.8"], found["pytorch-cuda:v2.7"]
    assert (gone["lock"], gone["digest"], gone["fetch"], gone["disk"]) == ("missing", None, None, None)
    assert (stale["lock"], stale["digest"], stale["gpus"]) == ("stale", None, 4)
    assert cli("matrix").code == 0


def test_a_big_image_wants_a_big_runner(cli: Cli, checkout: Checkout) -> None:
    path = checkout.folder / "recipes/pytorch-cuda/v2.8/lock.json"
    lock = json.loads(path.read_text())
    for item in lock["python"]:
        if item["name"] == "torch":
            item["size"] += 10**10
    path.write_text(json.dumps(lock))
    found = entries(cli("matrix", "--json"))
    assert {ref: entry["runner"] for ref, entry in found.items()} == {
        "pytorch-cuda:v2.7": "standard", "pytorch-cuda:v2.7-devel": "standard", "pytorch-cuda:v2.8": "large",
    }  # fmt: skip


# --changed-since


def test_nothing_changed(cli: Cli, checkout: Checkout) -> None:
    assert refs(cli, "--changed-since", "HEAD") == []
    assert cli("matrix", "--changed-since", "HEAD").out == "nothing to build\n"
    (checkout.folder / "README.md").write_text("words")
    edit(checkout, "v2.8", '"version"', '"version"', "conda.lock.json")
    (checkout.folder / "recipes/pytorch-cuda/v2.8/conda.lock.json").touch()
    checkout.commit()
    assert refs(cli, "--changed-since", "HEAD~1") == []


@pytest.mark.parametrize("committed", [True, False])
def test_a_recipe_that_changed_and_what_extends_it(cli: Cli, checkout: Checkout, committed: bool) -> None:
    before = checkout.git("rev-parse", "HEAD")
    edit(checkout, "v2.7", "gpus = 2", "gpus = 4")
    if committed:
        checkout.commit()
    assert refs(cli, "--changed-since", before) == ["v2.7", "v2.7-devel"]
    assert refs(cli, "--changed-since", before, "*-devel") == ["v2.7-devel"]


def test_a_variant_alone(cli: Cli, checkout: Checkout) -> None:
    edit(checkout, "v2.7-devel", '"resolved": "2', '"resolved": "3', "lock.json")
    assert refs(cli, "--changed-since", "main") == ["v2.7-devel"]


def test_a_new_recipe_is_a_changed_one(cli: Cli, checkout: Checkout) -> None:
    shutil.copytree(
        checkout.folder / "recipes/pytorch-cuda/v2.8", checkout.folder / "recipes/pytorch-cuda/v2.9"
    )
    assert refs(cli, "--changed-since", "HEAD") == ["v2.9"]
    checkout.commit()
    assert refs(cli, "--changed-since", "HEAD~1") == ["v2.9"]
    (checkout.folder / "recipes/pytorch-cuda/v2.9/lock.json").unlink()
    assert refs(cli, "--changed-since", "HEAD") == ["v2.9"]


def test_one_that_extends_by_two_steps(cli: Cli, checkout: Checkout) -> None:
    place = checkout.folder / "recipes/pytorch-cuda/far"
    place.mkdir()
    (place / "recipe.toml").write_text('description = "far"\nextends = "v2.7-devel"\n')
    checkout.commit()
    edit(checkout, "v2.7", "gpus = 2", "gpus = 4")
    assert refs(cli, "--changed-since", "HEAD") == ["v2.7", "v2.7-devel", "far"]


@pytest.mark.parametrize("commit", ["nowhere", "0" * 40, "--output=x", ""])
def test_a_commit_that_is_not_there(cli: Cli, commit: str) -> None:
    assert "git fetch" in cli.fails(2, "no-such-commit", "matrix", f"--changed-since={commit}").err


def test_outside_a_checkout(cli: Cli, checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".git")
    cli.fails(2, "no-git-checkout", "matrix", "--changed-since", "HEAD")
    assert cli("matrix").code == 0


def test_without_git(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    nothing = str(tmp_path_factory.mktemp("empty"))
    replace(cli, env={**cli.env, "PATH": nothing}).fails(2, "no-git", "matrix", "--changed-since", "HEAD")


def test_a_checkout_that_git_does_not_trust(cli: Cli, checkout: Checkout) -> None:
    """As in a container whose user is not the checkout's owner: git says so itself."""
    env = {**cli.env, "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    done = replace(cli, env=env).fails(2, "no-git-checkout", "matrix", "--changed-since", "HEAD")
    assert "dubious ownership" in done.err


def test_a_shallow_checkout_says_what_to_fetch(cli: Cli, checkout: Checkout) -> None:
    first = checkout.git("rev-parse", "HEAD")
    edit(checkout, "v2.8", "gpus = 2", "gpus = 4")
    checkout.commit()
    shallow = checkout.folder.parent / "shallow"
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", f"file://{checkout.folder}", shallow], check=True
    )
    there = replace(cli, folder=shallow)
    assert (
        f"git fetch --depth 1 origin {first}"
        in there.fails(2, "no-such-commit", "matrix", "--changed-since", first).err
    )
    checkout.git("config", "uploadpack.allowAnySHA1InWant", "true")
    subprocess.run(["git", "fetch", "--quiet", "--depth", "1", "origin", first], cwd=shallow, check=True)
    assert refs(there, "--changed-since", first) == ["v2.8"]
