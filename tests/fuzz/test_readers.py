"""Every reader of foreign bytes: a value or one error, whatever comes. ``python -m tests.fuzz`` tries longer."""

from __future__ import annotations

from random import Random

import pytest
from fuzz_engine import attempt, bounded, input_of
from fuzz_readers import READERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envbuild.errors import EnvbuildError

_FEW = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_a_valid_input(name: str) -> None:
    reader = READERS[name]
    assert reader.make.seeds
    failed = []
    for seed in reader.make.seeds:
        try:
            reader.read(seed)
            return
        except (EnvbuildError, *reader.answers) as error:
            failed.append(error)
    pytest.fail(f"{name} takes none of its valid inputs: {failed}")


@pytest.mark.parametrize("name", READERS)
def test_a_reader_gives_a_value_or_one_error(name: str) -> None:
    reader = READERS[name]

    @_FEW
    @given(st.randoms(use_true_random=False))
    def tried(rng: Random) -> None:
        crash, _ = attempt(reader, reader.make(rng))
        assert crash is None, f"{crash.at}\n{crash.data[:400]!r}\n{crash.told}"

    with bounded() as again:
        again()
        tried()


def test_an_input_of_the_campaign_can_be_made_again() -> None:
    for reader in READERS.values():
        assert input_of(reader, 7) == input_of(reader, 7)
