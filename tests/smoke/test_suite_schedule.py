"""What runs beside what: measurements alone, checks that fill GPUs one at a time, the host's state last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from envbuild.smoke.checks import CHECKS, Check
from envbuild.smoke.schedule import following, jobs_for

checks = st.lists(
    st.builds(
        Check,
        id=st.uuids().map(str),
        reason=st.just(""),
        timeout=st.just(1.0),
        needs=st.sampled_from(["cpu", "gpu", "gpus"]),
        beside=st.sampled_from(["any", "cpu", "none", "last"]),
    ),
    max_size=12,
)


def _play(pending, jobs, pick):
    """Run a schedule; ``pick`` says which of those that run ends next. Returns what ran beside each check."""
    pending, running, order = list(pending), [], []
    beside = {check.id: set() for check in pending}
    while pending or running:
        check = following(pending, running, jobs)
        if check is None:
            assert running, "nothing runs and nothing starts"
            running.pop(pick(len(running)))
            continue
        pending.remove(check)
        order.append(check)
        for other in running:
            beside[check.id].add(other)
            beside[other.id].add(check)
        running.append(check)
        assert len(running) <= jobs
    return order, beside


@given(checks=checks, jobs=st.integers(1, 6), data=st.data())
def test_every_check_runs_and_none_disturbs_another(checks, jobs, data):
    order, beside = _play(checks, jobs, lambda count: data.draw(st.integers(0, count - 1)))
    assert sorted(check.id for check in order) == sorted(check.id for check in checks)
    for check in checks:
        if check.beside in ("none", "last"):
            assert beside[check.id] == set()
        if check.beside == "cpu":
            assert {other.beside for other in beside[check.id]} <= {"any"}
    stages = [{"none": 1, "last": 2}.get(check.beside, 0) for check in order]
    assert stages == sorted(stages)


def test_one_at_a_time_is_the_order_of_the_list_but_for_those_that_come_last():
    order, _ = _play(CHECKS, 1, lambda count: 0)
    ids = [check.id for check in CHECKS]
    first = [check for check in order if check.beside in ("any", "cpu")]
    assert [check.id for check in first] == [name for name in ids if name in {check.id for check in first}]
    assert order[-1].id == "host"


def test_bandwidth_is_never_measured_beside_anything():
    (nccl,) = [check for check in CHECKS if check.id == "nccl"]
    assert nccl.beside == "none"


def test_a_small_machine_runs_one_check_at_a_time_and_a_large_one_a_few():
    assert [jobs_for(count) for count in (1, 2, 4, 16, 32, 256)] == [1, 1, 1, 5, 6, 6]
