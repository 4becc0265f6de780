"""Only a passing verdict about exactly this image, on enough GPUs, gives the tag."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import Terms, compare, promote, subject_of
from envbuild.smoke.checks import CHECKS
from envbuild.smoke.fingerprint import fingerprint

LOCK = "sha256:" + "c" * 64
OTHER = "sha256:" + "d" * 64
STARTED = datetime(2026, 11, 20, 10, tzinfo=UTC)


def terms_for(expected):
    return Terms(
        expected=expected, lock=LOCK, suites=frozenset({fingerprint()}), now=STARTED + timedelta(days=9)
    )


@pytest.fixture
def terms(expected):
    return terms_for(expected)


@pytest.fixture
def decide(report, subject, expected, verdict_of):
    """Promote ``about`` by a verdict that the (changed) report gives, itself changed by ``changes``."""

    def make(about=subject, want=expected, changes=(), **more):
        verdict = msgspec.structs.replace(verdict_of(report), **dict(changes))
        return promote(verdict, about, replace(terms_for(want), **more))

    return make


def refused(decide, id, *texts, **arguments):
    with pytest.raises(EnvbuildError) as caught:
        decide(**arguments)
    assert (caught.value.id, caught.value.exit) == (id, Exit.GATE)
    assert "envbuild smoke pytorch-cuda:v2.7" in caught.value.hint
    for text in texts:
        assert text in caught.value.message


def test_a_pass_about_this_image_gives_the_tag(decide):
    assert decide() == "pytorch-cuda:v2.7"


def test_how_many_gpus_a_container_got_is_no_expectation(decide, expected):
    assert decide(want=replace(expected, gpus_given=None)) == "pytorch-cuda:v2.7"


def test_another_image_is_refused_with_both_digests(decide, image, other_image):
    about = subject_of("pytorch-cuda:v2.7", other_image)
    refused(
        decide,
        "verdict-about-another-image",
        image.digest,
        other_image.digest,
        image.config.digest,
        other_image.config.digest,
        "layers: 2 differ",
        about=about,
    )


@pytest.mark.parametrize("part", ["manifest", "config", "diff_ids"])
def test_a_difference_in_any_part_is_enough(decide, subject, part):
    value = {"diff_ids": (*subject.diff_ids[:1], "sha256:" + "0" * 64)}.get(part, "sha256:" + "0" * 64)
    fields = {name: getattr(subject, name) for name in ("ref", "manifest", "config", "diff_ids")}
    about = type(subject)(**{**fields, part: value})
    refused(decide, "verdict-about-another-image", about=about)


def test_another_tag_of_the_same_image_is_refused(decide, image):
    with pytest.raises(EnvbuildError) as caught:
        decide(about=subject_of("pytorch-cuda:v2.8", image))
    assert "pytorch-cuda:v2.7, the image is pytorch-cuda:v2.8" in caught.value.message


def test_a_candidate_is_refused(decide, report):
    report["result"] = "candidate"
    report["why"] = "nothing failed, but 2 GPUs are wanted and 0 GPUs are here"
    report["gpus"] = []
    for check in report["checks"][5:]:
        check["status"] = "not-run"
    refused(decide, "verdict-not-a-pass", "'candidate'", "0 GPUs are here")


def test_a_failure_is_refused(decide, report):
    report["result"] = "failed"
    report["checks"][-1]["status"] = "failed"
    refused(decide, "verdict-not-a-pass", "'failed'")


def test_expectations_that_were_loosened_are_refused(decide, report):
    """A pass without the operator is no pass of a recipe that has one."""
    report["expectations"]["operator"] = None
    operators = {check.id for check in CHECKS if check.operator}
    report["checks"] = [c for c in report["checks"] if c["id"] not in operators]
    refused(decide, "verdict-of-other-expectations", "operator")


@pytest.fixture
def alone(report):
    """The report of a pass that asked for one GPU: the checks between GPUs are not called for."""
    between = {check.id for check in CHECKS if check.needs == "gpus"}
    report["expectations"]["gpus"]["wanted"] = 1
    report["checks"] = [check for check in report["checks"] if check["id"] not in between]
    return report


def test_a_pass_that_asked_for_fewer_gpus_is_refused(decide, alone):
    alone["gpus"].pop()
    refused(decide, "too-few-gpus", "saw 1 GPUs", "wants 2")


def test_a_pass_without_the_checks_between_gpus_is_refused(decide, alone):
    """Two GPUs were there, but what goes between them was not asked."""
    refused(decide, "verdict-lacks-checks", "nccl", "peer-copy", "ddp")


def test_a_verdict_of_another_lock_is_refused_with_both_digests(decide):
    """The same image can come of another lock: one whose gate asks for less, say."""
    refused(decide, "verdict-of-another-lock", LOCK, OTHER, lock=OTHER)
    refused(decide, "verdict-of-another-lock", LOCK, OTHER, changes={"lock": OTHER})
    refused(decide, "verdict-of-another-lock", LOCK, "None", changes={"lock": None})


def test_a_verdict_of_another_suite_is_refused_until_the_suite_is_named(decide):
    refused(decide, "verdict-of-another-suite", fingerprint(), OTHER, changes={"suite": OTHER})
    with pytest.raises(EnvbuildError) as caught:
        decide(changes={"suite": OTHER})
    assert f"--suite {OTHER}" in caught.value.hint
    named = frozenset({fingerprint(), OTHER})
    assert decide(changes={"suite": OTHER}, suites=named) == "pytorch-cuda:v2.7"
    assert decide(suites=named) == "pytorch-cuda:v2.7"
    assert decide(changes={"suite": OTHER}, suites=None) == "pytorch-cuda:v2.7"


@pytest.mark.parametrize(
    ("ahead", "taken"), [(-3600, True), (0, True), (299, True), (301, False), (10**8, False)]
)
def test_a_verdict_from_the_future_is_refused_but_for_clocks_that_differ_a_little(decide, ahead, taken):
    now = (STARTED - timedelta(seconds=ahead)).astimezone(timezone(timedelta(hours=-7)))
    if taken:
        assert decide(now=now) == "pytorch-cuda:v2.7"
    else:
        refused(decide, "verdict-from-the-future", "2026-11-20T10:00:00Z", now=now)


def test_the_same_image_differs_in_nothing(report, subject, verdict_of):
    assert compare(verdict_of(report), subject) == []


def test_a_verdict_about_a_python_environment_is_refused(report, subject, terms, verdict_of):
    verdict = verdict_of(report, about=None, lock=None)
    assert compare(verdict, subject)
    with pytest.raises(EnvbuildError) as caught:
        promote(verdict, subject, terms)
    assert (caught.value.id, caught.value.exit) == ("verdict-about-no-image", Exit.GATE)
    assert "/opt/venv/bin/python" in caught.value.message
    assert "without --here" in caught.value.hint
