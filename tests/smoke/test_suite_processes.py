"""Each check is a process: one that crashes, hangs or lies about itself is a failure of that check alone."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from envbuild.smoke.checks import CHECKS


@pytest.fixture
def importing(place):
    """``imports`` runs the package's code, so a package can do what a broken library does."""

    def make(code: str):
        place.install("victim", "1.0", {"victim.py": code})
        place.expect["imports"] = ["victim"]
        return place

    return make


def test_a_module_that_imports_passes(importing):
    assert "victim" in importing("x = 1\n").ask("imports").passed("imports")["seconds"]


def test_a_module_that_raises_fails_with_its_error(importing):
    importing("raise ImportError('libfoo.so.1: cannot open')").ask("imports").failed(
        "imports", "libfoo.so.1: cannot open", "`import victim` to succeed"
    )


def test_a_module_from_elsewhere_fails(importing):
    place = importing("x = 1\n")
    other = place.root / "other"
    other.mkdir()
    (other / "victim.py").write_text("x = 2\n")
    place.environ["PYTHONPATH"] = f"{place.suite}:{other}"
    place.ask("imports").failed("imports", str(other / "victim.py"), "PYTHONPATH")


def test_a_crash_fails_with_the_signal_and_the_stack(importing):
    answer = importing("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n").ask("imports")
    found = answer.failed("imports", "SIGSEGV")
    assert found["cause"] == "crash"
    assert "victim.py" in found["output"]


def test_leaving_quietly_is_no_pass(importing):
    found = importing("import os\nos._exit(0)\n").ask("imports").failed("imports", "no answer")
    assert found["cause"] == "crash"


def test_dying_after_the_answer_is_no_pass(importing):
    code = "import atexit, os\natexit.register(lambda: os.abort())\n"
    assert importing(code).ask("imports").failed("imports", "SIGABRT")["cause"] == "crash"


def test_an_exit_that_an_import_asks_for_fails(importing):
    importing("raise SystemExit(0)\n").ask("imports").failed("imports", "SystemExit")


def test_a_hang_fails_when_its_time_is_up_and_shows_where_it_stood(importing):
    found = importing("import time\ntime.sleep(1000)\n").ask("imports", limit=3).failed("imports")
    assert found["cause"] == "timeout"
    assert "victim.py" in found["output"]


def _alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _wait(condition) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


GRANDCHILD = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
pathlib.Path({pids!r}).write_text(str(child.pid))
time.sleep(1000)
"""


def test_a_hanging_check_leaves_no_grandchildren(importing, tmp_path):
    pids = tmp_path / "pids"
    importing(GRANDCHILD.format(pids=str(pids))).ask("imports", limit=4).failed("imports")
    assert _wait(lambda: not _alive(int(pids.read_text())))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_the_suite_is_ended_its_check_ends_too(importing, tmp_path, how):
    pids = tmp_path / "pid"
    place = importing(
        f"import os, pathlib, time\npathlib.Path({str(pids)!r}).write_text(str(os.getpid()))\ntime.sleep(1000)\n"
    )
    process = place.start("--only", "imports")
    assert _wait(lambda: pids.exists() and pids.read_text() != "")
    process.send_signal(how)
    out, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert out == ""
    assert _wait(lambda: not _alive(int(pids.read_text())))


def test_checks_run_beside_each_other_and_are_reported_in_order(importing, tmp_path):
    """``imports`` waits for a file that only a later check, ``gloo-all-reduce``, can bring: it runs meanwhile."""
    flag = tmp_path / "flag"
    place = importing(
        f"import pathlib, time\nwhile not pathlib.Path({str(flag)!r}).exists(): time.sleep(0.01)\n"
    )
    (place.site / "torch.py").write_text(f"import pathlib\npathlib.Path({str(flag)!r}).touch()\n")
    process = place.start("--only", "imports", "--only", "gloo-all-reduce", "--jobs", "2", "--limit", "50")
    out, err = process.communicate(timeout=120)
    status = {check["id"]: check["status"] for check in json.loads(out)["checks"]}
    assert status["imports"] == "passed", err
    assert status["gloo-all-reduce"] == "failed"
    assert list(status) == [check.id for check in CHECKS if not check.operator]


def test_one_job_is_one_check_at_a_time(importing, tmp_path):
    place = importing("x = 1\n")
    process = place.start("--only", "imports", "--only", "versions", "--jobs", "1")
    _, err = process.communicate(timeout=60)
    told = [
        line.split(":")[0].strip() for line in err.splitlines() if "imports" in line or "versions" in line
    ]
    assert told == ["[1/2] versions", "versions", "[2/2] imports", "imports"]


def test_what_a_check_prints_does_not_mix_with_the_report(importing):
    answer = importing("print('noise on stdout', flush=True)\n").ask("imports")
    answer.passed("imports")
    assert "noise" not in json.dumps(answer.report)


def test_variables_for_shared_hardware_reach_the_checks_and_the_report(importing, tmp_path):
    seen = tmp_path / "seen"
    place = importing(
        f"import os, json, pathlib\npathlib.Path({str(seen)!r}).write_text(json.dumps(dict(os.environ)))\n"
    )
    wanted = {
        "NCCL_NVLS_ENABLE": "0",
        "TORCH_NCCL_BLOCKING_WAIT": "1",
        "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
        "NVSHMEM_DISABLE_NVLS": "1",
    }
    place.environ |= wanted
    answer = place.ask("imports")
    answer.passed("imports")
    got = json.loads(seen.read_text())
    assert {name: got.get(name) for name in wanted} == wanted
    assert {name: answer.report["environment"].get(name) for name in wanted} == wanted
    assert "PATH" not in answer.report["environment"]


def test_scratch_folders_are_gone_afterwards(importing, tmp_path):
    place = importing("x = 1\n")
    folder = tmp_path / "tmp"
    folder.mkdir()
    place.environ["TMPDIR"] = str(folder)
    place.ask("imports").passed("imports")
    assert os.listdir(folder) == []
