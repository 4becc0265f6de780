"""Sizes as people write them, and the shape of a model of some size."""

from __future__ import annotations

import pytest

from envbuild.advise import parse_memory, parse_parameters, shape
from envbuild.advise.shapes import PUBLISHED, learning_rate, parameters_of
from envbuild.advise.units import count_text, memory_text
from envbuild.errors import EnvbuildError, Exit


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7b", 7_000_000_000),
        ("6.7B", 6_700_000_000),
        ("350m", 350_000_000),
        ("1.3e9", 1_300_000_000),
        ("1.5e+8", 150_000_000),
        ("124,439,808", 124_439_808),
        ("7_000_000_000", 7_000_000_000),
        ("1t", 10**12),
        ("0.5 b", 500_000_000),
        ("12k", 12_000),
    ],
)
def test_a_number_of_parameters(text: str, number: int) -> None:
    assert parse_parameters(text) == number


@pytest.mark.parametrize(
    "text", ["0", "0b", "-7b", "7x", "", "b", "7bb", "nan", "inf", "1e99", "500t", "0x7", "seven"]
)
def test_no_number_of_parameters(text: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        parse_parameters(text)
    assert (caught.value.id, caught.value.exit) == ("model-size", Exit.USAGE)
    assert "--params 7b" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("80", 80 * 10**9),
        ("80GB", 80 * 10**9),
        ("80g", 80 * 10**9),
        ("80GiB", 80 * 2**30),
        ("80Gi", 80 * 2**30),
        ("81559MiB", 81559 * 2**20),
        ("1.5TB", 1500 * 10**9),
        ("h100", 80 * 10**9),
        ("H200", 141 * 10**9),
        ("A100-40", 40 * 10**9),
        ("a100_80", 80 * 10**9),
        ("4090", 24 * 10**9),
        ("RTX 4090", 24 * 10**9),
        ("rtx4090", 24 * 10**9),
        ("T4", 16 * 10**9),
    ],
)
def test_memory_of_a_gpu(text: str, amount: int) -> None:
    assert parse_memory(text, "--gpu-memory") == amount


def test_a_number_is_a_gpu_only_where_a_gpu_is_asked_for() -> None:
    assert parse_memory("4090", "--cpu-memory") == 4090 * 10**9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0", "no memory at all"),
        ("-80", "neither an amount"),
        ("80 parsecs", "neither an amount"),
        ("h1000", "neither an amount"),
        ("", "neither an amount"),
        ("a100", "two sizes"),
        ("v100", "two sizes"),
        ("99999999GB", "more memory than anything has"),
    ],
)
def test_no_memory(text: str, says: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        parse_memory(text, "--gpu-memory")
    assert (caught.value.id, caught.value.exit) == ("memory", Exit.USAGE)
    assert says in caught.value.message
    assert "--gpu-memory" in caught.value.message


def test_a_misspelt_gpu_is_offered_the_nearest() -> None:
    with pytest.raises(EnvbuildError) as caught:
        parse_memory("h10O", "--gpu-memory")
    assert "did you mean h100?" in caught.value.hint


def test_figures_for_people() -> None:
    assert count_text(6_738_415_616) == "6.74B"
    assert count_text(350_000_000) == "350M"
    assert memory_text(45_500_000_000) == "45.5 GB"
    assert memory_text(12_300_000) == "12 MB"


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)
def test_published_shapes_are_taken_as_they_are(model: object) -> None:
    found = shape(int(model.parameters))  # type: ignore[attr-defined]  # a Published
    assert found.origin.startswith("as ")
    assert (found.layers, found.hidden) in {(other.layers, other.hidden) for other in PUBLISHED}
    # GPT-like ones obey the formula; Llama's gated perceptron and grouped attention are within a fifth of it
    counted = parameters_of(found.layers, found.hidden, found.vocabulary)
    assert 0.8 < counted / found.parameters < 1.25


@pytest.mark.parametrize(
    "size", [10_000, 1_000_000, 30_000_000, 4_500_000_000, 20_000_000_000, 10**12, 10**14]
)
def test_other_sizes_have_about_that_many_parameters(size: int) -> None:
    found = shape(size)
    blocks = 12 * found.layers * found.hidden**2
    assert 0.6 < blocks / size < 1.7
    assert found.hidden % 8 == 0


def test_a_given_shape_is_kept_and_counted() -> None:
    found = shape(None, layers=32, hidden=4096, vocabulary=32000, sequence=4096)
    assert (found.layers, found.hidden, found.vocabulary, found.sequence) == (32, 4096, 32000, 4096)
    assert found.parameters == parameters_of(32, 4096, 32000)
    assert found.origin == "as given"


def test_half_a_shape_is_completed() -> None:
    assert shape(7_000_000_000, layers=32).hidden == 4224
    assert shape(7_000_000_000, hidden=4096).layers == 35


def test_a_shape_of_another_size_is_refused() -> None:
    with pytest.raises(EnvbuildError) as caught:
        shape(7_000_000_000, layers=12, hidden=768)
    assert caught.value.id == "shape-and-size"


def test_no_size_at_all_is_refused() -> None:
    with pytest.raises(EnvbuildError) as caught:
        shape(None, layers=12)
    assert caught.value.id == "no-model-size"


def test_learning_rates_are_those_of_gpt_3() -> None:
    assert learning_rate(7_000_000_000) == 1.2e-4
    assert learning_rate(10_000_000) == 6e-4
