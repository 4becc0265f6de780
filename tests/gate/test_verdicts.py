"""A verdict says what the report said, about one image, and survives its file; anything else is refused."""

from __future__ import annotations

import json
import os
import subprocess

import msgspec
import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.report import parse_report
from envbuild.gate.signed import read_verdict, sign_verdict, write_verdict
from envbuild.gate.verdict import convert_verdict, make_verdict
from envbuild.smoke.checks import CHECKS


def read(report):
    return parse_report(json.dumps(report).encode(), where="test")


def refused(function, *texts):
    with pytest.raises(EnvbuildError) as caught:
        function()
    assert caught.value.exit is Exit.GATE
    assert caught.value.hint
    for text in texts:
        assert text in f"{caught.value.id} {caught.value.message}"
    return caught.value


def test_a_verdict_carries_the_image_and_every_number(report, expected, image, verdict_of):
    verdict = verdict_of(report)
    value = verdict.to_dict()
    assert (value["kind"], value["format"]) == ("envbuild.verdict", 2)
    assert value["subject"] == {
        "ref": "pytorch-cuda:v2.7",
        "manifest": image.digest,
        "config": image.config.digest,
        "diff_ids": tuple(layer.diff_id for layer in image.layers),
    }
    assert [check.numbers for check in verdict.checks] == [{"n": 1.25}] * len(report["checks"])
    assert verdict.driver == "580.159.04"
    assert verdict.environment == {"NCCL_NVLS_ENABLE": "0"}
    assert verdict.lock == "sha256:" + "c" * 64
    assert verdict.expected == expected


def test_a_verdict_survives_its_file(report, verdict_of, key, tmp_path):
    verdict = verdict_of(report)
    path = tmp_path / "deep" / "verdict.json"
    write_verdict(path, sign_verdict(verdict, key))
    assert read_verdict(path, trusted=[key.public]) == verdict
    assert path.read_bytes() == sign_verdict(read_verdict(path, trusted=[key.public]), key)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["verdict.json"]


@pytest.mark.parametrize("result", ["candidate", "failed"])
def test_an_answer_that_is_not_a_pass_is_a_verdict_too(report, verdict_of, result):
    report["result"] = result
    report["checks"][6]["status"] = {"candidate": "not-run", "failed": "failed"}[result]
    assert verdict_of(report).result == result


def test_another_suites_report_is_refused(report, verdict_of):
    report["suite"] = "sha256:" + "0" * 64
    refused(lambda: verdict_of(report), "report-of-another-suite", "sha256:000")


def test_a_report_about_other_expectations_is_refused(report, subject, expected):
    report["expectations"]["packages"]["torch"] = "2.7.0"
    report["expectations"]["operator"]["architectures"] = ["9.0"]
    refused(
        lambda: make_verdict(read(report), subject, expected=expected, engine="docker", lock=None),
        "report-of-other-expectations",
        "operator, packages",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["checks"][0].update(status="failed"), "versions failed"),
        (lambda r: r["checks"][0].update(status="not-run"), "these checks have no pass: versions"),
        (lambda r: r["checks"].pop(), f"these checks have no pass: {CHECKS[-1].id}"),
        (lambda r: r["checks"].append(dict(r["checks"][0])), "checks twice"),
        (lambda r: r["checks"].append({**r["checks"][0], "id": "mine"}), "nobody asked for mine"),
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
        (lambda r: r.update(format=99), "format 99"),
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


def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvbuildError) as caught:
        write_verdict(tmp_path / "file" / "verdict.json", b"{}")
    assert caught.value.id == "verdict-not-written"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    write_verdict(pipe, b"content")
    out, _ = reader.communicate(timeout=30)
    assert out == b"content"
    assert pipe.is_fifo()


@pytest.mark.parametrize("bad", ["", "/etc", "sha256:", "sha256:" + "A" * 64, "sha256:../../x"])
@pytest.mark.parametrize("member", ["manifest", "config", "diff_ids", "lock"])
def test_a_verdict_is_about_an_image_by_its_digests(report, verdict_of, member, bad):
    value = msgspec.to_builtins(verdict_of(report))
    assert convert_verdict(value, where="test")
    if member == "lock":
        value["lock"] = bad
    else:
        value["subject"][member] = [bad] if member == "diff_ids" else bad
    refused(lambda: convert_verdict(value, where="test"), "bad-verdict", "sha256 digest")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": ' + "[" * 100_000, "\0", "1" * 9999, '{"a": "\\ud800"}']
)
def test_a_report_that_nobody_writes_is_refused(text):
    refused(lambda: parse_report(text.encode(), where="test"), "bad-report")
