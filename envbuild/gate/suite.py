"""Run the suite in a container of the unchanged candidate, on whatever engine there is."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from envbuild.engine.model import Engine, Gpus, ImageRef, Mount, RunCommand, Streams
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.envelope import LARGEST
from envbuild.gate.report import Report, parse_report
from envbuild.layers.format import VENV
from envbuild.progress import Progress
from envbuild.smoke import fingerprint as suite_files
from envbuild.smoke.__main__ import STATUS
from envbuild.smoke.checks import applicable
from envbuild.smoke.model import Expectations

_LONGEST_LINE = 1 << 16

TARGET = "/run/envbuild-suite"
"""Where the container sees the suite."""

MARGIN = 120.0
"""Seconds on top of all checks' limits before the container is killed."""


def stage(folder: Path, expectations: Expectations) -> None:
    """Lay out what is mounted: ``smoke/`` and ``expect.json``, readable by any user of the container.

    Args:
        folder: an empty folder of the caller's.
        expectations: what the suite must find.
    """
    copy_suite(folder)
    (folder / "expect.json").write_text(json.dumps(expectations.to_dict(), indent=1) + "\n")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def copy_suite(folder: Path) -> None:
    """Put the suite's files into ``folder/smoke``, so that ``folder`` on PYTHONPATH brings them and nothing else."""
    for source in suite_files.sources():
        target = folder / "smoke" / source.relative_to(suite_files.HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def suite_command(folder: Path, expectations: Expectations, *, gpus: Gpus) -> RunCommand:
    """The container's command: the staged ``folder`` read-only, the report on stdout, progress on stderr."""
    return RunCommand(
        argv=(
            *(f"/{VENV}/bin/python", "-P", "-s", "-m", "smoke"),
            *("--expect", f"{TARGET}/expect.json", "--report", "-"),
        ),
        env={"PYTHONPATH": TARGET, "PYTHONDONTWRITEBYTECODE": "1"},
        gpus=gpus,
        mounts=(Mount(source=folder, target=TARGET, read_only=True),),
        timeout=sum(check.timeout for check in applicable(expectations)) + MARGIN,
    )


def run_suite(
    engine: Engine,
    image: ImageRef,
    expectations: Expectations,
    *,
    gpus: Gpus,
    folder: Path,
    progress: Progress,
) -> Report:
    """Ask a candidate everything, in one container.

    Args:
        engine: has the image loaded already.
        image: the unchanged candidate.
        expectations: from :func:`envbuild.gate.expect.expect`.
        gpus: what the container is given.
        folder: an empty scratch folder; the caller removes it.
        progress: gets each of the suite's lines.

    Raises:
        EnvbuildError: exit 6 when no whole report came back in time (a crash is not a pass), or when the container
            had not the caller's variables for shared hardware; what the engine raises.
    """
    stage(folder, expectations)
    command = suite_command(folder, expectations, gpus=gpus)
    with TemporaryFile() as out:
        with _lines_to(progress) as stderr, Path(os.devnull).open("rb") as nothing:
            streams = Streams(stdin=nothing.fileno(), stdout=out.fileno(), stderr=stderr)
            status = _run(engine, image, command, streams)
        out.seek(0)
        data = out.read(LARGEST)  # what is cut there is no report
    if not data.strip():
        raise EnvbuildError(
            "suite-without-report",
            f"the suite ended with status {status} and wrote no report",
            where=image.names[0],
            hint=f"`envbuild run {image.names[0]} -- python -c 'import torch'` shows whether the image starts at all",
            exit=Exit.GATE,
        )
    report = parse_report(data, where=image.names[0])
    contradicts_status(report, status, where=image.names[0])
    _had_variables(report, engine.passes, where=image.names[0])
    return report


def _run(engine: Engine, image: ImageRef, command: RunCommand, streams: Streams) -> int:
    """Run the container; one that does not end in time is the gate's refusal, not the engine's fault."""
    try:
        return engine.run(image, command, streams)
    except EnvbuildError as error:
        if error.id != "container-timeout":
            raise
        raise EnvbuildError(
            "suite-hung",
            f"the suite did not end: {error.message}",
            where=image.names[0],
            hint="look at `nvidia-smi` and dmesg: a GPU or a file system that does not answer holds processes for good",
            exit=Exit.GATE,
        ) from error


def contradicts_status(report: Report, status: int, *, where: str) -> None:
    """Refuse a report whose process ended otherwise than it says.

    Raises:
        EnvbuildError: exit 6.
    """
    if STATUS[report.result] != status:
        raise EnvbuildError(
            "report-contradicts-itself",
            f"the report says {report.result!r}, but the suite ended with status {status}",
            where=where,
            hint="run `envbuild smoke` again; if it stays, look at the machine's memory and at dmesg",
            exit=Exit.GATE,
        )


def _had_variables(report: Report, passed: Mapping[str, str], *, where: str) -> None:
    """An operator may forbid a feature on shared hardware by a variable: a container must not undo that."""
    lost = [name for name, value in sorted(passed.items()) if report.environment.get(name) != value]
    if lost:
        raise EnvbuildError(
            "report-without-variables",
            "the suite did not run under the caller's variables: "
            + "; ".join(
                f"{name} is {passed[name]!r} here, {report.environment.get(name)!r} there" for name in lost
            ),
            where=where,
            hint="the image's own start-up must not change them; remove what does, or another --engine may help",
            exit=Exit.GATE,
        )


def _inner(line: str) -> str:
    """A line from the container: indented, unless it looks like the suite's. None looks like envbuild's own."""
    suites = ("[", " ", *(f"{outcome}: " for outcome in STATUS))
    return line if line.startswith(suites) else f"  {line}"


@contextmanager
def _lines_to(progress: Progress) -> Iterator[int]:
    """A file descriptor whose lines become notes."""
    reading, writing = os.pipe()

    def pump() -> None:
        with os.fdopen(reading, "r", errors="replace") as stream:
            while line := stream.readline(_LONGEST_LINE):
                progress.note(_inner(line.rstrip()))

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield writing
    finally:
        os.close(writing)
        thread.join(timeout=5)
