"""Recipes that extend another, and devel variants, at the command line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from clirun import ROOT, Cli

PARENT = "pytorch-cuda:v2.7"
CHILD = "pytorch-cuda:v2.7-devel"


@pytest.fixture
def child(recipes: Path) -> Path:
    """The folder of the child's recipe, beside its parent's."""
    target = recipes / "pytorch-cuda/v2.7-devel"
    shutil.copytree(ROOT / "recipes/pytorch-cuda/v2.7-devel", target)
    return target


def test_devel_is_short_for_the_reference_with_devel(cli: Cli, recipes: Path) -> None:
    done = cli.fails(3, "no-recipe", "image", PARENT, "--devel")
    assert f"there is no recipe {CHILD}" in done.err
    assert f"Did you mean {PARENT}?" in done.err
    again = cli.fails(3, "no-recipe", "image", CHILD, "--devel")
    assert f"there is no recipe {CHILD} " in again.err


def test_a_child_agrees_with_its_lock_and_its_parent_s(cli: Cli, child: Path) -> None:
    assert cli("lock", CHILD, "--check", "--json").value == {"ref": CHILD, "agrees": True}


def test_a_parent_s_lock_that_moved_is_told_by_check_and_keeps_the_child_s_image(
    cli: Cli, child: Path
) -> None:
    lock = child.parent / "v2.7/lock.json"
    before = lock.read_text()
    moved = re.sub(
        r'("name": "tqdm", "version": )"[^"]+"(.*?"sha256": )"[0-9a-f]+"', rf'\1"9.9"\2"{"0" * 64}"', before
    )
    assert moved != before
    lock.write_text(moved)
    done = cli.fails(3, "lock-is-stale", "lock", CHILD, "--check")
    assert f"{CHILD} extends {PARENT}, whose lock has moved" in done.err
    assert f"tqdm: {PARENT} locks 9.9, this lock holds " in done.err
    assert cli("export", CHILD, "--format", "layers").code == 0


def test_another_list_of_parts_makes_the_lock_stale(cli: Cli, child: Path) -> None:
    recipe = child.parent / "v2.7/recipe.toml"
    recipe.write_text(recipe.read_text().replace('parts = ["jupyter", "ssh"]', 'parts = ["jupyter"]'))
    done = cli.fails(3, "lock-is-stale", "lock", PARENT, "--check")
    assert "parts.ssh: gone from the recipe" in done.err
    assert "parts.ssh: gone from the recipe" in cli.fails(3, "lock-is-stale", "image", CHILD).err


def test_a_child_is_locked_after_its_parent(cli: Cli, child: Path) -> None:
    (child.parent / "v2.7/lock.json").unlink()
    done = cli.fails(3, "no-lock", "lock", CHILD)
    assert f"run `envbuild lock {PARENT}`" in done.err


def test_locking_an_unchanged_child_asks_no_index(cli: Cli, child: Path) -> None:
    assert cli("lock", CHILD).code == 0
    once = (child / "lock.json").read_bytes()
    assert cli("lock", CHILD, "--json").value["changed"] is False
    assert (child / "lock.json").read_bytes() == once
