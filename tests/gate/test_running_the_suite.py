"""The suite as an engine runs it: one mount, one command, the report on stdout. The engine here is a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from envbuild.engine.model import RunCommand
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.suite import TARGET, run_suite, stage, suite_command
from envbuild.progress import SilentProgress
from envbuild.smoke.fingerprint import fingerprint
from envbuild.smoke.model import Expectations


@dataclass
class Process:
    """Runs the container's command as a plain process, with paths of the container replaced by the mount's."""

    name: str = "process"
    passes: dict = field(default_factory=dict)
    instead: list[str] | None = None
    commands: list[RunCommand] = field(default_factory=list)

    def run(self, image, command, streams):
        self.commands.append(command)
        (mount,) = command.mounts
        argv = [text.replace(TARGET, str(mount.source)) for text in command.argv[1:]]
        env = {**os.environ, **command.env, "PYTHONPATH": str(mount.source)}
        done = subprocess.run(
            self.instead or [sys.executable, *argv],
            env=env,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            check=False,
        )
        return done.returncode


class Notes(SilentProgress):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


class Image:
    names = ("pytorch-cuda:v2.7-candidate",)


@pytest.fixture
def nothing_wanted():
    """Expectations that no Python meets: torch in a version that does not exist."""
    return Expectations(
        ref="pytorch-cuda:v2.7",
        complete=False,
        declared={},
        packages={"torch": "0.0.1"},
        hashed=(),
        imports=(),
        cuda="12.6",
        libraries=(),
        operator=None,
        driver_floor=None,
        gpus_wanted=2,
        gpus_given=None,
    )


def start(engine, expectations, folder, progress=None):
    folder.mkdir(exist_ok=True)
    return run_suite(
        engine, Image(), expectations, gpus=0, folder=folder, progress=progress or SilentProgress()
    )


def test_what_is_mounted_is_the_suite_and_the_expectations(nothing_wanted, tmp_path):
    stage(tmp_path, nothing_wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expect.json", "smoke"]
    assert fingerprint(tmp_path / "smoke") == fingerprint()
    assert not list(tmp_path.rglob("__pycache__"))
    assert all(path.stat().st_mode & 0o005 for path in tmp_path.rglob("*"))


def test_the_command_mounts_read_only_and_has_a_limit(nothing_wanted, tmp_path):
    command = suite_command(tmp_path, nothing_wanted, gpus="all")
    (mount,) = command.mounts
    assert mount.read_only
    assert command.gpus == "all"
    assert command.argv[0] == "/opt/venv/bin/python"
    assert command.timeout is not None


def test_the_report_comes_back_and_progress_is_told(nothing_wanted, tmp_path):
    notes = Notes()
    report = start(Process(), nothing_wanted, tmp_path / "stage", notes)
    assert report.result == "failed"
    assert {check.id: check.status for check in report.checks}["versions"] == "failed"
    assert report.suite == fingerprint()
    assert any("versions" in line for line in notes.lines)
    assert notes.lines[-1].startswith("failed: ")


@pytest.mark.parametrize(
    ("argv", "id"),
    [
        (["true"], "suite-without-report"),
        (["sh", "-c", "exit 137"], "suite-without-report"),
        (["sh", "-c", "echo all is well"], "bad-report"),
        (["sh", "-c", 'echo \'{"result": "passed"}\''], "bad-report"),
    ],
)
def test_a_container_without_a_whole_report_is_never_a_pass(nothing_wanted, tmp_path, argv, id):
    with pytest.raises(EnvbuildError) as caught:
        start(Process(instead=argv), nothing_wanted, tmp_path / "stage")
    assert (caught.value.id, caught.value.exit) == (id, Exit.GATE)


def test_a_line_without_an_end_is_told_in_pieces(nothing_wanted, tmp_path):
    notes = Notes()
    script = "head -c 200000 /dev/zero | tr '\\0' x >&2"
    with pytest.raises(EnvbuildError, match="no report"):
        start(Process(instead=["sh", "-c", script]), nothing_wanted, tmp_path / "stage", notes)
    assert [len(line.strip()) for line in notes.lines] == [65536, 65536, 65536, 3392]


def test_a_program_in_the_container_cannot_write_a_line_of_envbuilds_own(nothing_wanted, tmp_path):
    notes = Notes()
    script = "printf 'error[x]: y\\n✓ done\\n[1/2] versions: why\\n    versions: passed\\n' >&2"
    with pytest.raises(EnvbuildError, match="no report"):
        start(Process(instead=["sh", "-c", script]), nothing_wanted, tmp_path / "stage", notes)
    assert notes.lines == ["  error[x]: y", "  ✓ done", "[1/2] versions: why", "    versions: passed"]


def test_a_pass_from_a_process_that_failed_is_refused(report, expected, tmp_path):
    """The report says passed, the process ended with 1: something happened in between."""
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    with pytest.raises(EnvbuildError) as caught:
        start(Process(instead=["sh", "-c", f"cat {file}; exit 1"]), expected, tmp_path / "stage")
    assert caught.value.id == "report-contradicts-itself"
    assert start(Process(instead=["cat", str(file)]), expected, tmp_path / "stage2").result == "passed"
