"""Runs in a process of its own: unpack and link packages with py-rattler.

A process of its own, since py-rattler's threads go on unpacking after an error or an interrupt: only ending the
process stops them. ``main`` reads a JSON object from stdin (``prefix``, ``files``, ``lock``) and prints JSON lines:
``{"packages": 1}`` for each that is linked, and at the end ``{"done": true}`` or ``{"failed": text}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from envbuild.environment.prefix import UNFINISHED
from envbuild.lock import CondaLock, parse_conda_lock
from envbuild.lock.conda.records import to_record


def say(value: dict[str, object]) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def link(lock: CondaLock, prefix: Path, files: Path) -> None:
    """Link every package of the lock, whose file lies in ``files``, into the prefix."""
    from rattler import install
    from rattler.install import InstallerReporter
    from rattler.platform import Subdir

    class Reporter(InstallerReporter):
        def on_link_complete(self, index: int) -> None:
            say({"packages": 1})

    records = [to_record(lock, package, (files / package.file).as_uri()) for package in lock.packages]
    asyncio.run(
        install(
            records,
            prefix,
            cache_dir=prefix / UNFINISHED / "packages",
            installed_packages=[],
            platform=Subdir("linux-64"),
            execute_link_scripts=False,
            show_progress=False,
            reporter=Reporter(),  # type: ignore[abstract]  # every method of the protocol has a default body
        )
    )


def main() -> None:
    """Read what to do, do it, say what happened, and end at once.

    The interpreter is not wound up: a thread of py-rattler's that still reports then would abort the process.
    """
    given = json.load(sys.stdin)
    lock = parse_conda_lock(given["lock"].encode(), Path("conda.lock.json"))
    try:
        link(lock, Path(given["prefix"]), Path(given["files"]))
    except (
        Exception
    ) as error:  # whatever py-rattler raises: it has one type for each step, and none in common
        say({"failed": str(error) or type(error).__name__})
    else:
        say({"done": True})
    os._exit(0)


if __name__ == "__main__":
    main()
