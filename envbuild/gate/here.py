"""Run the suite in a Python environment of this machine, without an image: is the machine healthy?"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.report import Report, parse_report
from envbuild.gate.suite import MARGIN, contradicts_status, copy_suite
from envbuild.progress import Progress
from envbuild.smoke.checks import CHECKS

OLDEST = (3, 11)
"""The oldest Python that the suite's files can be read by."""

LIMIT = sum(check.timeout for check in CHECKS) + MARGIN
"""Seconds for the whole suite: every check has a limit of its own, so this one is hardly ever reached."""

GRACE = 15.0
"""Seconds that a suite which is told to stop has to kill what it started."""


def find_python(environ: Mapping[str, str], own: str) -> Path:
    """The interpreter of the active environment (venv, then conda), or envbuild's ``own``."""
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        python = Path(environ.get(name) or "/nonexistent") / "bin/python"
        if python.exists():
            return python
    return Path(own)


def run_here(
    python: Path,
    *,
    gpus: int,
    environ: Mapping[str, str],
    folder: Path,
    progress: Progress,
    limit: float = LIMIT,
) -> Report:
    """Ask a Python environment everything that it can be asked.

    Args:
        python: its interpreter, 3.11 or newer, with torch.
        gpus: how many a pass needs.
        environ: the caller's environment; PYTHONPATH is replaced.
        folder: an empty scratch folder; the caller removes it.
        progress: gets each of the suite's lines.
        limit: seconds until the suite is stopped, with all that it started.

    Raises:
        EnvbuildError: exit 2 when this is no Python that can be asked, exit 6 when no whole report came back.
    """
    _fit(python)
    suite, report = folder / "suite", folder / "report.json"
    copy_suite(suite)
    command = [
        *(str(python), "-P", "-s", "-m", "smoke", "--here"),
        *("--gpus", str(gpus), "--report", str(report)),
    ]
    process = subprocess.Popen(
        command,
        env={**environ, "PYTHONPATH": str(suite), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    last: deque[str] = deque(maxlen=5)
    reader = threading.Thread(target=_pump, args=(process, progress, last), daemon=True)
    reader.start()
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        raise _hung(python, limit) from None
    finally:
        _stop(process)
        reader.join(timeout=5)
    if not report.exists():
        raise _no_report(python, status, list(last))
    found = parse_report(report.read_bytes(), where=str(python))
    contradicts_status(found, status, where=str(python))
    return found


def _pump(process: subprocess.Popen[str], progress: Progress, last: deque[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        last.append(line.rstrip())
        progress.note(line.rstrip())


def _stop(process: subprocess.Popen[str]) -> None:
    """End the suite, which kills what it started; what is left of its session after a while is killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _fit(python: Path) -> None:
    """See that this is a Python of a version that can read the suite."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        version = tuple(int(part) for part in done.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise EnvbuildError(
            "bad-python",
            f"this does not run as a Python: {error}",
            where=str(python),
            hint="name the interpreter of the environment: --python /path/to/venv/bin/python",
            exit=Exit.USAGE,
        ) from None
    if version < OLDEST:
        raise EnvbuildError(
            "bad-python",
            f"the suite needs Python {OLDEST[0]}.{OLDEST[1]}, this is {'.'.join(map(str, version))}",
            where=str(python),
            hint="name another environment with --python",
            exit=Exit.USAGE,
        )


def _no_report(python: Path, status: int, last: list[str]) -> EnvbuildError:
    said = "\n".join(last) or "nothing"
    if status == 2:
        return EnvbuildError(
            "environment-cannot-be-asked",
            said.rpartition("error: ")[2],
            where=str(python),
            hint="activate the environment that has torch, or name its interpreter with --python",
            exit=Exit.USAGE,
        )
    return EnvbuildError(
        "suite-without-report",
        f"the suite ended with status {status} and wrote no report; it said last:\n{said}",
        where=str(python),
        hint="run it again; if it stays, look at the machine's memory and at dmesg",
        exit=Exit.GATE,
    )


def _hung(python: Path, limit: float) -> EnvbuildError:
    return EnvbuildError(
        "suite-hung",
        f"the suite was stopped after {limit:g} s",
        where=str(python),
        hint="look at `nvidia-smi` and dmesg: a GPU or a file system that does not answer holds processes for good",
        exit=Exit.GATE,
    )
