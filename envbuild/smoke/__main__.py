"""``python -P -s -m smoke``: run the suite here and write the report.

Exit status: 0 passed; 1 failed; 3 candidate (nothing failed, but not everything could be run); 2 usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

from .checks import CHECKS
from .here import expect_here
from .model import BadExpectations, Expectations, parse_expectations
from .runner import run_suite, to_stderr

STATUS = {"passed": 0, "failed": 1, "candidate": 3}


def main(argv: list[str]) -> int:
    """Parse, run, write. Nothing but the report goes to stdout."""
    parser = argparse.ArgumentParser(
        prog="smoke", description="Ask this Python environment the suite's questions."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--expect", type=Path, metavar="FILE", help="expectations that the host wrote")
    source.add_argument("--here", action="store_true", help="expect what is installed here")
    source.add_argument("--list", action="store_true", help="print the checks and leave")
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs that a pass needs (default: as expected)")
    parser.add_argument("--report", default="-", metavar="FILE", help="where the JSON goes (default: stdout)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ID", help="run this check (repeatable)"
    )
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="cap of every check's time limit")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="checks at a time (default: as processors allow)"
    )
    options = parser.parse_args(argv)
    if options.list:
        for check in CHECKS:
            print(f"{check.id:<18} {check.reason}")
        return 0
    unknown = set(options.only) - {check.id for check in CHECKS}
    if unknown:
        parser.error(f"no such check: {', '.join(sorted(unknown))}; --list prints them")
    try:
        expectations = expect_here() if options.here else _read(options.expect)
    except BadExpectations as bad:
        parser.error(str(bad))
    if options.jobs is not None and options.jobs < 1:
        parser.error("--jobs needs a number from 1 on")
    if options.gpus is not None:
        if options.gpus < 0:
            parser.error("--gpus needs a number from 0 on")
        expectations = dataclasses.replace(expectations, gpus_wanted=options.gpus)
    signal.signal(signal.SIGTERM, _interrupt)
    report = run_suite(expectations, say=to_stderr, only=options.only, limit=options.limit, jobs=options.jobs)
    _write(options.report, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return STATUS[str(report["result"])]


def _interrupt(number: int, frame: object) -> None:
    """Leave through the ``finally`` clauses, which kill what runs."""
    raise KeyboardInterrupt


def _read(path: Path) -> Expectations:
    try:
        return parse_expectations(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise BadExpectations(f"{path}: {error}") from error


def _write(target: str, text: str) -> None:
    """Write the report whole or not at all; a device or a pipe (``/dev/stderr``) is written to, not replaced."""
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(target)
    if path.exists() and not path.is_file():
        path.write_text(text)
        return
    partial = Path(f"{target}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        to_stderr("interrupted; nothing was decided")
        status = 130
    sys.exit(status)
