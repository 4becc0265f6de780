"""What the whole comes to: only a full run on enough GPUs is a pass."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from envbuild.smoke.checks import CHECKS, applicable
from envbuild.smoke.model import CheckResult, Expectations, Library, Operator, parse_expectations
from envbuild.smoke.runner import judge


def expectations(wanted=2, operator=True):
    return Expectations(
        ref="pytorch-cuda:test",
        complete=True,
        declared={"torch": "2.7.1"},
        packages={"torch": "2.7.1"},
        hashed=("torch",),
        imports=("torch",),
        cuda="12.6",
        libraries=(Library(stem="libnccl", package="nvidia-nccl-cu12", version="2.26.2"),),
        operator=Operator(name="fused_adam", module="m", file="f.so", architectures=("8.0", "9.0+PTX"))
        if operator
        else None,
        driver_floor="525.60.13",
        gpus_wanted=wanted,
        gpus_given=None,
    )


def results(changes=None, gpus=2, operator=True, wanted=2):
    changes = changes or {}
    return [
        CheckResult(
            id=check.id,
            reason=check.reason,
            timeout=1,
            status=changes.get(check.id, "passed"),
            numbers={"gpus": [{"name": "GPU"}] * gpus} if check.id == "cuda-available" else {},
        )
        for check in applicable(expectations(wanted, operator))
    ]


def test_all_passed_on_enough_gpus_is_a_pass():
    assert judge(expectations(), results()) == ("passed", f"all {len(CHECKS)} checks passed on 2 GPUs")


def test_more_gpus_than_wanted_is_a_pass():
    assert judge(expectations(wanted=1), results(gpus=8, wanted=1))[0] == "passed"


def test_without_an_operator_the_pass_has_fewer_checks():
    assert judge(expectations(operator=False), results(operator=False))[0] == "passed"


@pytest.mark.parametrize("check", [check.id for check in CHECKS])
def test_any_failure_fails_the_whole(check):
    outcome, why = judge(expectations(), results({check: "failed"}))
    assert outcome == "failed"
    assert check in why


@pytest.mark.parametrize("check", [check.id for check in CHECKS])
def test_any_check_that_was_not_run_leaves_a_candidate(check):
    outcome, why = judge(expectations(), results({check: "not-run"}))
    assert outcome == "candidate"
    assert check in why


def test_a_check_that_is_not_there_at_all_leaves_a_candidate():
    assert judge(expectations(), results()[:-1])[0] == "candidate"


@pytest.mark.parametrize("gpus", [0, 1])
def test_too_few_gpus_leave_a_candidate_and_both_numbers_are_said(gpus):
    outcome, why = judge(expectations(wanted=2), results(gpus=gpus))
    assert outcome == "candidate"
    assert "2 GPUs are wanted" in why
    assert f"{gpus} GPU" in why


def test_a_machine_without_gpus_ends_with_a_candidate(place):
    place.install("victim", "1.0", {"victim.py": ""})
    place.expect["imports"] = ["victim"]
    answer = place.ask("versions", "imports", "cuda-available")
    assert answer.report["result"] == "candidate"
    assert answer.code == 3
    found = answer.check("cuda-available")
    assert (found["status"], found["seen"]) == ("not-run", "no GPU here (/dev/nvidia0 does not exist)")
    assert answer.check("gloo-all-reduce")["seen"] == "not asked for"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "versoins"], "no such check: versoins"),
        (["--gpus", "-1"], "from 0 on"),
        (["--here", "--list"], "not allowed with"),
    ],
)
def test_bad_arguments_end_with_2_and_no_traceback(place, arguments, said):
    process = place.start(*arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 1}, "$.format is not 2"),
        ({"format": None}, "$.format"),
        ({"surprise": 1}, "unknown keys: surprise"),
        ({"packages": {"a": 1}}, "must map names to versions"),
        ({"declared": {"torch": 2}}, "$.declared must map names to versions"),
        ({"hashed": "torch"}, "$.hashed is 'torch'"),
        ({"gpus": {"wanted": True, "given": None}}, "$.gpus.wanted is True"),
        ({"gpus": {"wanted": 2}}, "$.gpus.given is missing"),
        ({"libraries": [{"stem": "libcudart"}]}, "$.libraries[].package is missing"),
        ({"operator": {"name": "x"}}, "$.operator.module is missing"),
    ],
)
def test_bad_expectations_end_with_2_and_name_the_key(place, change, said):
    place.expect |= change
    process = place.start()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_expectations_that_are_no_json_end_with_2(place, tmp_path):
    (tmp_path / "expect.json").write_text("{")
    done = subprocess.run(
        [place.python, "-P", "-s", "-m", "smoke", "--expect", tmp_path / "expect.json"],
        env={"PYTHONPATH": str(place.suite)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_expectations_survive_their_file():
    value = expectations()
    assert parse_expectations(json.loads(json.dumps(value.to_dict()))) == value


def test_the_report_can_go_to_a_file(place, tmp_path):
    report = tmp_path / "report.json"
    process = place.start("--only", "versions", "--report", str(report))
    out, _ = process.communicate(timeout=60)
    assert out == ""
    assert json.loads(report.read_text())["checks"][0]["status"] == "passed"


def test_here_without_torch_says_so(place):
    done = subprocess.run(
        [place.python, "-P", "-s", "-m", "smoke", "--here"],
        env={"PYTHONPATH": str(place.suite)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "torch is not installed" in done.stderr


def test_a_pipe_is_written_to_and_not_replaced(place, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    place.start("--only", "versions", "--report", str(pipe)).communicate(timeout=60)
    out, _ = reader.communicate(timeout=30)
    assert json.loads(out)["result"] == "candidate"
    assert pipe.is_fifo()


def test_what_needs_two_gpus_is_not_run_on_one_and_leaves_a_candidate(place):
    place.expect["gpus"]["given"] = 1
    answer = place.ask("nccl")
    found = answer.check("nccl")
    assert (found["status"], found["seen"]) == ("not-run", "it needs two GPUs, and one is here")
    assert (answer.report["result"], answer.code) == ("candidate", 3)


def test_a_recipe_that_wants_one_gpu_does_not_call_for_checks_between_gpus():
    needed = {check.id for check in applicable(expectations(wanted=1))}
    left_out = {check.id for check in CHECKS} - needed
    assert left_out == {check.id for check in CHECKS if check.needs == "gpus"}
    assert "nccl" in left_out


@pytest.mark.parametrize("value", ["0", "-3"])
def test_no_jobs_is_bad_usage(place, value):
    process = place.start("--jobs", value)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--jobs needs a number from 1 on" in err
