"""A recipe that no person writes: one error with its line, in no time, and never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe import Recipe, Ref, list_recipes, load_recipe
from envbuild.recipe.keylines import check_keys

GOOD = (Path(__file__).parents[2] / "recipes/pytorch-cuda/v2.7/recipe.toml").read_text()
REF = Ref(name="tiny", tag="v1")
LONG = "9" * 5000


def load(folder: Path, text: str | bytes) -> Recipe:
    path = folder / "tiny" / "v1" / "recipe.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_recipe(REF, [folder])


def refused(folder: Path, text: str | bytes, *ids: str) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        load(folder, text)
    assert caught.value.exit == Exit.INPUT
    assert caught.value.id in ids, (caught.value.id, caught.value.message)
    assert caught.value.where is not None
    assert "recipe.toml" in caught.value.where
    assert caught.value.hint
    assert len(caught.value.message) < 3000
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 50_000) + " = 1",
        "[" + ".".join("a" * 50_000) + "]",
        "x = {" + " . ".join(['"a"'] * 30_000) + " = 1}",
        "\n".join("[" + ".".join(["a"] * (n + 1)) + "]" for n in range(100)),
    ],
    ids=["key", "table", "inline", "tables"],
)
def test_a_key_of_very_many_parts_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, "# a recipe\n" + text, "recipe-syntax")
    assert "parts" in error.message
    assert error.where is not None
    assert int(error.where.rpartition(":")[2]) >= 2


def test_looking_for_long_keys_takes_no_time() -> None:
    """Quadratic, each of these takes hours."""
    for text in (
        "a" * 1_000_000,
        "a." * 10 + "a" * 1_000_000,
        '"' * 1_000_000,
        "a " * 500_000,
        ". " * 500_000,
    ):
        check_keys(text)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        "x = " + "{a = " * 50_000,
        "x = " + "[" * 200 + "]" * 200,
        "x = " + LONG,
        "x = 0x" + "f" * 9999,
        "x = 2026-99-99",
        "x = 2026-02-30T25:61:61Z",
        "x = 1979-05-27T00:00:00+99:99",
        "x = 1e999999",
        "\0",
        'x = "\0"',
        'x = "\\ud800"',
        "a" * 2000 + " = 1",
        "",
    ],
)
def test_what_is_no_recipe_gives_one_error(tmp_path: Path, text: str) -> None:
    refused(tmp_path, text, "recipe-syntax", "recipe-unknown-key", "recipe-missing-key")


@pytest.mark.parametrize("value", [LONG, LONG + ".1", "1." + LONG, "x" * 5000, "2.7\\u0000", "v" + LONG])
@pytest.mark.parametrize(
    "line", ['version = "2.7.1"', 'version = "12.6"', 'cudnn = "9.5.1.17"', 'nccl = "2.26.2"']
)
def test_a_version_that_nobody_counts_is_refused(tmp_path: Path, line: str, value: str) -> None:
    assert line in GOOD
    refused(tmp_path, GOOD.replace(line, f'{line.partition("=")[0]}= "{value}"'), "recipe-wrong-value")


@pytest.mark.parametrize(
    "value", ["0x" + "f" * 9999, "70000", "0", "-1", "true", '"1"', "1.5", "2026-01-01", "[1]"]
)
def test_a_count_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    text = GOOD[: GOOD.index("[gate]")] + f"[gate]\ngpus = {value}\n"
    refused(tmp_path, text, "recipe-wrong-value", "recipe-wrong-type")


@pytest.mark.parametrize(
    "item",
    ["0x" + "f" * 9999, "2026-01-01", f'"{"x" * 5000}"', '"numpy\\u0000"', "[[1]]", f'"numpy=={LONG}"'],
)
def test_an_item_that_is_none_is_refused(tmp_path: Path, item: str) -> None:
    head, _, tail = GOOD.partition("[torch]")
    python = head.partition("[python]")[0] + f'[python]\nversion = "3.11"\npackages = [{item}]\n'
    refused(tmp_path, f"{python}[torch]{tail}", "recipe-wrong-value", "recipe-wrong-type")


def test_a_file_that_is_too_big_or_none_is_not_read(tmp_path: Path) -> None:
    error = refused(tmp_path, b"#" * 1_000_000, "recipe-unreadable")
    assert "more than" in error.message


def test_a_recipe_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "v1"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "recipe.toml")
    with pytest.raises(EnvbuildError) as caught:
        list_recipes([tmp_path])
    assert caught.value.exit == Exit.INPUT


def test_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD.replace("\n", "\r\n")).torch == load(tmp_path, GOOD).torch
