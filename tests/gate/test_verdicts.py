"""A verdict says what the report said, about one image, and survives its file; anything else is refused."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.report import parse_report
from envbuild.gate.verdict import make_verdict, parse_verdict, read_verdict, verdict_bytes, write_verdict


def read(report):
    return parse_report(json.dumps(report).encode(), where="test")


def verdict_of(report, subject, expected):
    return make_verdict(read(report), subject, expected=expected, engine="docker 26.1")


def refused(function, *texts):
    with pytest.raises(EnvbuildError) as caught:
        function()
    assert caught.value.exit is Exit.GATE
    assert caught.value.hint
    for text in texts:
        assert text in f"{caught.value.id} {caught.value.message}"
    return caught.value


def test_a_verdict_carries_the_image_and_every_number(report, subject, expected, image):
    verdict = verdict_of(report, subject, expected)
    value = verdict.to_dict()
    assert (value["kind"], value["format"]) == ("envbuild.verdict", 1)
    assert value["subject"] == {
        "ref": "pytorch-cuda:v2.7",
        "manifest": image.digest,
        "config": image.config.digest,
        "diff_ids": tuple(layer.diff_id for layer in image.layers),
    }
    assert [check.numbers for check in verdict.checks] == [{"n": 1.25}] * 8
    assert verdict.driver == "580.159.04"
    assert verdict.environment == {"NCCL_NVLS_ENABLE": "0"}
    assert verdict.expected == expected


def test_a_verdict_survives_its_file(report, subject, expected, tmp_path):
    verdict = verdict_of(report, subject, expected)
    write_verdict(tmp_path / "deep" / "verdict.json", verdict)
    assert read_verdict(tmp_path / "deep" / "verdict.json") == verdict
    assert verdict_bytes(read_verdict(tmp_path / "deep" / "verdict.json")) == verdict_bytes(verdict)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["verdict.json"]


@pytest.mark.parametrize("result", ["candidate", "failed"])
def test_an_answer_that_is_not_a_pass_is_a_verdict_too(report, subject, expected, result):
    report["result"] = result
    report["checks"][6]["status"] = {"candidate": "not-run", "failed": "failed"}[result]
    assert verdict_of(report, subject, expected).result == result


def test_another_suites_report_is_refused(report, subject, expected):
    report["suite"] = "sha256:" + "0" * 64
    refused(lambda: verdict_of(report, subject, expected), "report-of-another-suite", "sha256:000")


def test_a_report_about_other_expectations_is_refused(report, subject, expected):
    report["expectations"]["packages"]["torch"] = "2.7.0"
    report["expectations"]["operator"]["architectures"] = ["9.0"]
    refused(
        lambda: verdict_of(report, subject, expected), "report-of-other-expectations", "operator, packages"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["checks"][0].update(status="failed"), "versions failed"),
        (lambda r: r["checks"][0].update(status="not-run"), "these checks have no pass: versions"),
        (lambda r: r["checks"].pop(), "these checks have no pass: zero3-fused-adam"),
        (lambda r: r["checks"].append(dict(r["checks"][0])), "checks twice"),
        (lambda r: r["gpus"].pop(), "it saw 1 GPUs where 2 are wanted"),
        (lambda r: r.update(result="failed"), "no check failed"),
    ],
)
def test_a_result_that_the_checks_do_not_bear_out_is_refused(report, change, said):
    change(report)
    refused(lambda: read(report), "report-contradicts-itself", said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(surprise=1), "surprise"),
        (lambda r: r.pop("gpus"), "gpus"),
        (lambda r: r.update(format=2), "format 2"),
        (lambda r: r.update(result="great"), "great"),
        (lambda r: r["checks"][0].update(status="skipped"), "skipped"),
        (lambda r: r["checks"][0].update(seconds="1"), "seconds"),
        (lambda r: r["host"].update(extra=1), "extra"),
        (lambda r: r["expectations"].pop("gpus"), "$.gpus is missing"),
    ],
)
def test_a_report_of_another_shape_is_refused(report, change, said):
    change(report)
    refused(lambda: read(report), "bad-report", said)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b'{"result": "passed"}', b"passed\n"])
def test_what_is_no_report_is_refused(text):
    refused(lambda: parse_report(text, where="test"), "bad-report")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(kind="other"), "bad-verdict"),
        (lambda v: v.update(format=2), "bad-verdict"),
        (lambda v: v["subject"].update(extra=1), "bad-verdict"),
        (lambda v: v["checks"][3].update(status="failed"), "operator-file failed"),
        (lambda v: v["expectations"]["gpus"].update(wanted=4), "it saw 2 GPUs where 4 are wanted"),
    ],
)
def test_a_verdict_that_was_edited_clumsily_is_refused(report, subject, expected, tmp_path, change, said):
    value = json.loads(verdict_bytes(verdict_of(report, subject, expected)))
    change(value)
    refused(lambda: parse_verdict(json.dumps(value).encode(), where="test"), said)


def test_a_verdict_that_is_not_there_is_named(tmp_path):
    error = refused(lambda: read_verdict(tmp_path / "none.json"), "no-verdict")
    assert error.where == str(tmp_path / "none.json")


def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing(report, subject, expected, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvbuildError) as caught:
        write_verdict(tmp_path / "file" / "verdict.json", verdict_of(report, subject, expected))
    assert caught.value.id == "verdict-not-written"


def test_a_pipe_is_written_to_and_not_replaced(report, subject, expected, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    verdict = verdict_of(report, subject, expected)
    write_verdict(pipe, verdict)
    out, _ = reader.communicate(timeout=30)
    assert out == verdict_bytes(verdict)
    assert pipe.is_fifo()
