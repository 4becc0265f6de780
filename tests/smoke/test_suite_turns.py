"""Checks of one group share a process and its ranks, and each still has an answer of its own."""

from __future__ import annotations

import os

import pytest

CHECK = """
import os
from ..context import run_ranks
from ..model import Failure

def run(context):
    ranks = run_ranks(context, 2, environ=dict(os.environ))
    return {"ranks": [rank["pid"] for rank in ranks], "coming": context.options["coming"], "here": os.getpid()}

def rank(context):
    BODY
    context.warn("said by a rank")
    return {"pid": os.getpid()}
"""

IDS = ("one", "two", "three")


@pytest.fixture
def group(place):
    """Three checks of one group instead of the suite's own; the ranks of each do what the test says first."""

    def make(timeout=30.0, **bodies):
        checks = place.suite / "smoke/checks"
        for name in IDS:
            (checks / f"{name}.py").write_text(CHECK.replace("BODY", bodies.get(name, "pass")))
        init = checks / "__init__.py"
        text = init.read_text()
        start, end = text.index("CHECKS = ("), text.index("def applicable")
        own = "".join(
            f"Check(id={name!r}, reason='a test', timeout={timeout}, group='them'), " for name in IDS
        )
        init.write_text(f"{text[:start]}CHECKS = ({own})\n\n\n{text[end:]}")
        place.environ["TMPDIR"] = str(place.root / "tmp")
        (place.root / "tmp").mkdir()
        answer = place.ask()
        assert os.listdir(place.root / "tmp") == []
        return answer

    return make


def test_turns_share_the_process_and_its_ranks(group):
    answer = group()
    numbers = [answer.passed(name) for name in IDS]
    assert len({tuple(found["ranks"]) for found in numbers}) == 1
    assert len({found["here"] for found in numbers}) == 1
    assert [found["coming"] for found in numbers] == [["two", "three"], ["three"], []]
    assert answer.check("two")["warnings"] == ["rank 0: said by a rank", "rank 1: said by a rank"]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in [*numbers[0]["ranks"], numbers[0]["here"]])


NO = "if context.rank == 1: raise Failure(expected='four', seen='five', hint='count')"


def test_a_rank_that_says_no_in_the_last_check_is_an_answer_too(group):
    answer = group(three=NO)
    assert answer.failed("three", "four", "rank 1: five", "count")["cause"] == "answer"
    answer.passed("two")


def test_a_rank_that_says_no_fails_its_check_only_and_the_next_gets_fresh_ranks(group):
    answer = group(two=NO)
    found = answer.failed("two", "four", "rank 1: five", "count")
    assert found["cause"] == "answer"
    assert set(answer.passed("one")["ranks"]).isdisjoint(answer.passed("three")["ranks"])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("if context.rank == 0: os.abort()", "rank 0 was killed by SIGABRT"),
        ("if context.rank == 0: raise ValueError('odd')", "ValueError: odd"),
        ("if context.rank == 0: os._exit(0)", "rank 0 ended with status 0"),
    ],
)
def test_a_rank_that_dies_fails_its_check_only_with_its_last_words(group, body, text):
    answer = group(two=body)
    answer.failed("two", text)
    answer.passed("one")
    answer.passed("three")


def test_a_rank_that_hangs_is_ended_with_its_group_and_the_next_check_runs(group):
    answer = group(timeout=3.0, two="import time; time.sleep(1000)")
    found = answer.failed("two")
    assert found["cause"] == "timeout"
    assert "time.sleep(1000)" in found["output"] or "in rank" in found["output"]
    assert set(answer.passed("one")["ranks"]).isdisjoint(answer.passed("three")["ranks"])


def test_a_process_of_the_group_that_dies_is_the_crash_of_the_check_whose_turn_it_was(group):
    answer = group(two="os.kill(os.getppid(), 9); import time; time.sleep(20)")
    assert answer.failed("two", "SIGKILL")["cause"] == "crash"
    answer.passed("one")
    answer.passed("three")


def test_a_rank_that_does_not_leave_well_is_no_pass_for_the_last_check(group):
    answer = group(one="import atexit; atexit.register(os.abort)")
    answer.passed("one")
    answer.passed("two")
    assert answer.failed("three")["cause"] == "crash"


def test_the_group_ends_with_the_suite(group, place):
    pids = place.root / "pids"
    body = f"open({str(pids)!r}, 'a').write(str(os.getpid()) + '\\n')"
    group(three=body)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids.read_text().split())
