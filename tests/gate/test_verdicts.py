"""A verdict says what the report said, about one image, and survives its file; anything else is refused."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress

import msgspec
import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.envelope import seal
from envbuild.gate.figures import key_number
from envbuild.gate.page import page
from envbuild.gate.report import parse_report
from envbuild.gate.signed import parse_signed, read_verdict, sign_verdict, write_verdict
from envbuild.gate.statement import statement_bytes
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
    write_verdict(path, sign_verdict(verdict, key), key=key.public)
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


FIELDS = [
    (("suite",), ["x", "sha256:" + "A" * 64, "sha256:" + "a" * 64 + "\n", "md5:" + "a" * 32, ""]),
    (
        ("started",),
        ["zzz", "2026-02-30T10:00:00Z", "2026-11-20", "2026-11-20T25:00:00Z", "2026-11-20T10:00:00", ""],
    ),
    (("started",), ["2026-11-20T10:00:00Z\n", "२०२६-11-20T10:00:00Z", "0000-01-01T00:00:00Z", 5, None]),
    (("seconds",), [-1, 1e10, "1", True]),
    (("why",), ["a\nb", "a\x1b[2Jb", "a\u202eb", "a\x9bb", "a" * 5000]),
    (("gpus", 0, "name"), ["", "H200\x1b[31m", "H200\n", "x" * 300]),
    (("gpus", 0, "memory"), [-1, 10**30, 1.5]),
    (("gpus", 0, "capability"), [[9], [9, -1], [9, 0, 0]]),
    (("host", "system"), ["Debian\nverdict: passed"]),
    (("host", "driver"), ["580\r"]),
    (("checks", 0, "id"), ["", "a b", "versions\n", "../x"]),
    (("checks", 0, "seconds"), [-0.5, 1e300]),
    (("checks", 0, "timeout"), [-1]),
    (("environment",), [{"A\nB": "x"}, {"": "x"}, {"A": 1}]),
]


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for path, values in FIELDS for value in values],
    ids=lambda item: ascii(item)[:60],
)
def test_a_field_that_cannot_be_is_refused_in_a_report_and_in_a_signed_verdict(
    report, verdict_of, key, path, value
):
    statement = json.loads(statement_bytes(verdict_of(report)))
    for document in (report, statement["predicate"]["envbuild"]):
        place = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
    refused(lambda: read(report), "bad-report")
    data = seal(json.dumps(statement).encode(), key)
    refused(lambda: parse_signed(data, trusted=[key.public], where="x"), "bad-verdict")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ['"seconds": 61.5', '"n": 1.25'])
def test_what_is_no_finite_number_is_no_number(report, place, text):
    written = json.dumps(report)
    assert place in written
    spoilt = written.replace(place, place.partition(": ")[0] + ": " + text)
    refused(lambda: parse_report(spoilt.encode(), where="test"), "bad-report")


@pytest.mark.parametrize("key_of", ["manifest", "config", "diff_ids", "ref"])
def test_a_subject_that_cannot_be_is_refused(report, verdict_of, key, key_of):
    statement = json.loads(statement_bytes(verdict_of(report)))
    statement["predicate"]["envbuild"]["subject"][key_of] = ["x"] if key_of == "diff_ids" else "x\ny"
    data = seal(json.dumps(statement).encode(), key)
    refused(lambda: parse_signed(data, trusted=[key.public], where="x"), "bad-verdict")


def test_numbers_that_no_float_holds_and_deep_ones_end_in_no_traceback(report, verdict_of, key):
    deep: object = 1
    for _ in range(400):
        deep = [deep]
    report["checks"][0]["numbers"] = {"packages": 10**400, "hashed_files": 2, "deep": deep}
    verdict = verdict_of(report)
    assert page(verdict, [key.public])
    assert "2 files hashed" in key_number(verdict.checks[0])
    with suppress(EnvbuildError):
        parse_signed(sign_verdict(verdict, key), trusted=[key.public], where="x")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b'{"result": "passed"}', b"passed\n"])
def test_what_is_no_report_is_refused(text):
    refused(lambda: parse_report(text, where="test"), "bad-report")


def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing(report, verdict_of, key, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvbuildError) as caught:
        write_verdict(
            tmp_path / "file" / "verdict.json", sign_verdict(verdict_of(report), key), key=key.public
        )
    assert caught.value.id == "verdict-not-written"


def test_a_pipe_is_written_to_and_not_replaced(report, verdict_of, key, tmp_path):
    content = sign_verdict(verdict_of(report), key)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    write_verdict(pipe, content, key=key.public)
    out, _ = reader.communicate(timeout=30)
    assert out == content
    assert pipe.is_fifo()


def test_a_verdict_of_an_earlier_suite_is_read_as_what_that_suite_asked(report, verdict_of):
    """Checks are added; what was proven before stays readable, and promoting says what it lacks."""
    value = json.loads(json.dumps(verdict_of(report).to_dict()))
    value["checks"].pop()
    refused(lambda: convert_verdict(value, where="test"), "verdict-contradicts-itself", CHECKS[-1].id)
    value["suite"] = "sha256:" + "0" * 64
    assert len(convert_verdict(value, where="test").checks) == len(CHECKS) - 1
    empty = {**value, "checks": []}
    refused(lambda: convert_verdict(empty, where="test"), "verdict-contradicts-itself", "no check ran")
    value["checks"][0]["status"] = "not-run"
    refused(lambda: convert_verdict(value, where="test"), "verdict-contradicts-itself", "versions")


@pytest.mark.parametrize("bad", ["", "/etc", "sha256:", "sha256:" + "A" * 64, "sha256:../../x"])
@pytest.mark.parametrize("member", ["manifest", "config", "diff_ids", "lock"])
def test_a_verdict_is_about_an_image_by_its_digests(report, verdict_of, member, bad):
    value = msgspec.to_builtins(verdict_of(report))
    assert convert_verdict(value, where="test")
    if member == "lock":
        value["lock"] = bad
    else:
        value["subject"][member] = [bad] if member == "diff_ids" else bad
    refused(lambda: convert_verdict(value, where="test"), "bad-verdict")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": ' + "[" * 100_000, "\0", "1" * 9999, '{"a": "\\ud800"}']
)
def test_a_report_that_nobody_writes_is_refused(text):
    refused(lambda: parse_report(text.encode(), where="test"), "bad-report")
