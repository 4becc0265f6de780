"""``envbuild lock`` with conda, recipes that make no image, and a machine without a channel."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from clirun import ROOT, Cli

RECORDS = ROOT / "tests/data/conda-forge"
NOWHERE = "conda-forge=http://127.0.0.1:9/conda-forge"
DAY = "2026-11-20"


@pytest.fixture
def all_recipes(cli: Cli) -> Cli:
    """The command line with copies of all the committed recipes, and no channel in reach."""
    folder = cli.folder / "all"
    shutil.copytree(ROOT / "recipes", folder)
    return replace(cli, env={**cli.env, "ENVBUILD_RECIPES": str(folder), "ENVBUILD_CONDA_CHANNELS": NOWHERE})


def lock_file(cli: Cli, ref: str, name: str = "conda.lock.json") -> Path:
    return Path(cli.env["ENVBUILD_RECIPES"]) / ref.replace(":", "/") / name


def test_a_committed_lock_serves_without_a_channel(all_recipes: Cli) -> None:
    for ref in ("ds-train", "pytorch-cuda:v2.7", "pytorch-cuda:v2.8-devel"):
        done = all_recipes("lock", ref, "--json")
        assert done.code == 0, done
        assert done.value["changed"] is False
        assert all_recipes("lock", ref, "--check").code == 0


def test_without_a_channel_a_changed_recipe_is_one_error_and_nothing_is_written(all_recipes: Cli) -> None:
    ref = "pytorch-cuda:v2.8"
    recipe = lock_file(all_recipes, ref, "recipe.toml")
    recipe.write_text(recipe.read_text() + '[conda]\nglibc = "2.31"\n')
    before = {
        name: lock_file(all_recipes, ref, name).read_bytes() for name in ("conda.lock.json", "lock.json")
    }
    done = all_recipes.fails(4, "channel-down", "lock", ref)
    assert "--only image" in done.err
    assert before == {name: lock_file(all_recipes, ref, name).read_bytes() for name in before}
    assert all_recipes("lock", ref, "--only", "image", "--json").value["changed"] is False
    done = all_recipes.fails(3, "lock-is-stale", "lock", ref, "--check")
    assert 'conda.glibc: the recipe has "2.31", the lock "2.28"' in done.err
    assert all_recipes("lock", ref, "--check", "--only", "image").code == 0
    solved = all_recipes(
        "lock", ref, "--only", "conda", "--channel", f"conda-forge={RECORDS}", "--date", DAY, "--json"
    )
    assert solved.code == 0, solved
    assert solved.value["conda"]["changed"] is True
    assert solved.value["path"] is None
    assert all_recipes("lock", ref, "--check").code == 0


def test_an_upgrade_moves_a_conda_package_in_its_own_lock_only(all_recipes: Cli) -> None:
    ref = "pytorch-cuda:v2.8"
    arguments = ("--channel", f"conda-forge={RECORDS}", "--json")
    lock_file(all_recipes, ref).unlink()
    assert all_recipes("lock", ref, "--date", "2026-06-01", *arguments).value["conda"]["changed"] is True
    older = lock_file(all_recipes, ref).read_text()
    moved = all_recipes(
        "lock", ref, "--upgrade", "ca-certificates", "--only", "conda", "--date", DAY, *arguments
    )
    assert moved.code == 0, moved
    newer = lock_file(all_recipes, ref).read_text()
    lines = [line for line in newer.splitlines() if line not in older.splitlines()]
    assert [line for line in lines if '"name": "' in line and '"ca-certificates"' not in line] == []
    assert any('"ca-certificates"' in line for line in lines)


def test_an_unknown_channel_place_is_usage(all_recipes: Cli) -> None:
    all_recipes.fails(2, "wrong-channel", "lock", "ds-train", "--channel", "conda-forge")


def test_an_environment_has_no_image_lock(all_recipes: Cli) -> None:
    all_recipes.fails(2, "makes-no-image", "lock", "ds-train", "--only", "image")
    rows = {row["ref"]: row for row in all_recipes("list", "--json").value}
    assert rows["ds-train:v2.7"]["lock"] is None
    assert rows["ds-train:v2.7"]["conda_lock"] == "ok"
    assert rows["ds-train:v2.7"]["makes"] == ["environment"]
    assert rows["pytorch-cuda:v2.7"]["makes"] == ["image", "environment"]
    assert "(environment)" in all_recipes("list").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("image", "ds-train"), ("run", "ds-train:v2.7", "--", "true"), ("smoke", "ds-train:v2.7"),
        ("export", "ds-train", "--format", "layers"),
        ("bundle", "ds-train:v2.7", "--have", "home", "--output", "out"),
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_a_command_that_needs_an_image_says_what_to_do(all_recipes: Cli, arguments: tuple[str, ...]) -> None:
    done = all_recipes.fails(2, "makes-no-image", *arguments)
    assert "envbuild env create ds-train:v2.7 --prefix DIR" in done.err


def test_a_name_with_several_tags(all_recipes: Cli) -> None:
    done = all_recipes.fails(2, "wrong-reference", "image", "pytorch-cuda")
    assert "pytorch-cuda:v2.7-devel" in done.err


def test_a_conda_lock_edited_by_hand(all_recipes: Cli) -> None:
    path = lock_file(all_recipes, "ds-train:v2.7")
    path.write_text(path.read_text().replace("2.27.3.1-h9b8ff78_0", "2.26.2.1-h9b8ff78_0"))
    done = all_recipes.fails(3, "lock-wrong", "lock", "ds-train", "--check")
    assert "(nccl): file is " in done.err
    assert str(path) in done.err


def test_a_variant_whose_parent_has_moved(all_recipes: Cli) -> None:
    ref = "pytorch-cuda:v2.8"
    lock_file(all_recipes, ref).unlink()
    arguments = ("--only", "conda", "--channel", f"conda-forge={RECORDS}")
    assert all_recipes("lock", ref, "--date", "2026-06-01", *arguments).code == 0
    done = all_recipes.fails(3, "lock-is-stale", "lock", f"{ref}-devel", "--check", "--only", "conda")
    assert "extends pytorch-cuda:v2.8, whose lock has moved" in done.err
