"""The suite in a Python environment: which one, and what becomes of one that hangs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.here import find_python, run_here
from envbuild.progress import SilentProgress


def test_the_active_environment_goes_before_envbuilds_own(tmp_path):
    for name in ("venv", "conda"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin/python").write_text("")
    venv, conda = (
        {key: str(tmp_path / name)} for key, name in (("VIRTUAL_ENV", "venv"), ("CONDA_PREFIX", "conda"))
    )
    assert find_python({**venv, **conda}, sys.executable) == tmp_path / "venv/bin/python"
    assert find_python(conda, sys.executable) == tmp_path / "conda/bin/python"
    assert find_python({"VIRTUAL_ENV": str(tmp_path / "gone")}, sys.executable) == Path(sys.executable)


def test_a_suite_that_hangs_is_stopped_with_what_it_started(tmp_path):
    """A stand-in for Python that answers the question for its version, and then waits for a child."""
    python = tmp_path / "python"
    child = tmp_path / "child"
    python.write_text(
        "#!/bin/sh\n"
        'case "$*" in *smoke*) ;; *) echo 3 11; exit;; esac\n'
        f"trap 'kill $pid; exit 130' TERM\nsleep 600 & pid=$!\necho $pid > {child}\nwait\n"
    )
    python.chmod(0o755)
    with pytest.raises(EnvbuildError) as caught:
        run_here(
            python, gpus=0, environ=os.environ, folder=tmp_path / "f", progress=SilentProgress(), limit=2
        )
    assert (caught.value.id, caught.value.exit) == ("suite-hung", Exit.GATE)
    assert "after 2 s" in caught.value.message
    status = Path(f"/proc/{child.read_text().strip()}/stat")
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.05)  # a child that stays ends the test by its time limit


def test_one_that_does_not_listen_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("envbuild.gate.here.GRACE", 0.5)
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$*" in *smoke*) ;; *) echo 3 11; exit;; esac\n'
        f"trap '' TERM\necho $$ > {tmp_path}/pid\nwhile :; do sleep 1; done\n"
    )
    python.chmod(0o755)
    with pytest.raises(EnvbuildError) as caught:
        run_here(
            python, gpus=0, environ=os.environ, folder=tmp_path / "f", progress=SilentProgress(), limit=1
        )
    assert caught.value.id == "suite-hung"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
