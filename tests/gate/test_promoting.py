"""Only a passing verdict about exactly this image, on enough GPUs, gives the tag."""

from __future__ import annotations

from dataclasses import replace

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import compare, promote, subject_of
from envbuild.smoke.checks import CHECKS


@pytest.fixture
def decide(report, subject, expected, verdict_of):
    """Promote ``about`` by a verdict that the (changed) report gives."""

    def make(about=subject, want=expected):
        return promote(verdict_of(report), about, expected=want)

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


def test_the_same_image_differs_in_nothing(report, subject, verdict_of):
    assert compare(verdict_of(report), subject) == []


def test_a_verdict_about_a_python_environment_is_refused(report, subject, expected, verdict_of):
    verdict = verdict_of(report, about=None, lock=None)
    assert compare(verdict, subject)
    with pytest.raises(EnvbuildError) as caught:
        promote(verdict, subject, expected=expected)
    assert (caught.value.id, caught.value.exit) == ("verdict-about-no-image", Exit.GATE)
    assert "/opt/venv/bin/python" in caught.value.message
    assert "without --here" in caught.value.hint
