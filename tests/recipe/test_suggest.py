"""The nearest valid spelling and the nearest versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from envbuild.recipe.suggest import did_you_mean, listed, nearest, nearest_versions


@pytest.mark.parametrize(
    ("word", "choices", "found"),
    [
        ("cudn", ["cudnn", "nccl", "version"], ["cudnn"]),
        ("Security_Updates", ["security-updates", "packages"], ["security-updates"]),
        ("pytorch-cuda", ["pytorch-cuda:v2.7", "other:v1"], ["pytorch-cuda:v2.7"]),
        ("xyz", ["cudnn", "nccl"], []),
        ("", ["a"], []),
    ],
)
def test_only_what_is_alike_is_offered(word: str, choices: list[str], found: list[str]) -> None:
    assert nearest(word, choices) == found


@pytest.mark.parametrize(
    ("version", "existing", "found"),
    [
        ("2.7.9", ["2.6.0", "2.7.0", "2.7.1", "2.8.0", "1.13"], ["2.7.1", "2.7.0", "2.6.0"]),
        ("3.0", ["1.0", "2.9", "2.10"], ["2.9", "2.10", "1.0"]),
        ("2.8", ["2.9.0rc1", "2.7.0"], ["2.7.0"]),
        ("2.8rc1", ["2.8.0rc2", "2.7.0"], ["2.8.0rc2", "2.7.0"]),
        ("1.0", ["1.1rc1"], ["1.1rc1"]),
        ("1.0", ["not a version"], []),
    ],
)
def test_the_nearest_versions_come_first(version: str, existing: list[str], found: list[str]) -> None:
    assert nearest_versions(version, existing) == found


NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=3).map(lambda parts: ".".join(map(str, parts)))


@given(NUMBERS, st.lists(NUMBERS, max_size=8))
def test_what_is_offered_exists_and_an_existing_version_is_its_own_nearest(
    asked: str, existing: list[str]
) -> None:
    found = nearest_versions(asked, existing)
    assert set(map(Version, found)) <= set(map(Version, existing))
    assert bool(found) == bool(existing)
    if Version(asked) in map(Version, existing):
        assert Version(found[0]) == Version(asked)


@given(st.text(max_size=8), st.lists(st.text(max_size=8), max_size=6))
def test_the_order_of_the_choices_does_not_matter(word: str, choices: list[str]) -> None:
    assert nearest(word, choices, limit=3) == nearest(word, choices[::-1], limit=3)


def test_words_are_listed_for_people() -> None:
    assert listed(["a"]) == '"a"'
    assert listed(["a", "b", "c"]) == '"a", "b" and "c"'
    assert did_you_mean("nothing alike", ["x"]) == ""
