"""The image's own programs at work in the sandbox: python to compile, gzip to compress."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.format import PYTHON
from envbuild.oci.disk import disk_full, ran_out
from envbuild.sandbox import Bind, Command, Rootfs, Sandbox

ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
}
_DRIVER = "/tmp/compile_driver.py"  # noqa: S108 -- in the sandbox


def compile_files(
    sandbox: Sandbox,
    rootfs: Rootfs,
    names: Sequence[str],
    *,
    work: Path,
    jobs: int,
    tree: str = "",
    binds: tuple[Bind, ...] = (),
) -> list[str]:
    """Compile Python files with the image's interpreter (see ``compile_driver``).

    Args:
        sandbox: where.
        rootfs: the image.
        names: absolute paths in the image.
        work: a folder for files of this call.
        jobs: processes.
        tree: what is before a name to give its place in the sandbox.
        binds: further binds, for ``tree``.

    Returns:
        The names that do not compile.

    Raises:
        EnvbuildError: exit 7; the interpreter could not be run.
    """
    (work / "names.json").write_text(json.dumps(list(names)))
    driver = Bind(source=Path(__file__).with_name("compile_driver.py"), target=_DRIVER)
    command = Command(
        argv=(f"/usr/bin/{PYTHON}", "-I", _DRIVER, str(jobs), tree), env=ENV, binds=(driver, *binds)
    )
    result, errors = work / "failed.json", work / "compile.log"
    with (work / "names.json").open("rb") as stdin, result.open("wb") as stdout, errors.open("wb") as stderr:
        code = sandbox.run(rootfs, command, stdin=stdin, stdout=stdout, stderr=stderr)
    if code and ran_out(work, tail(errors)):
        raise disk_full(work)
    if code:
        raise EnvbuildError(
            "bytecode-failed",
            f"the image's {PYTHON} ended with {code} while compiling:\n{tail(errors)}",
            hint="if the last line speaks of memory or space, make room and run the command again",
            exit=Exit.ENGINE,
        )
    failed = json.loads(result.read_bytes())
    assert isinstance(failed, list)
    return failed


def gzip_files(
    sandbox: Sandbox, rootfs: Rootfs, files: Sequence[tuple[Path, Path]], *, level: int, jobs: int
) -> None:
    """Compress each (source, target) with the image's gzip: one member each, without name and time.

    Raises:
        EnvbuildError: exit 7; gzip could not be run or failed.
    """

    def one(pair: tuple[Path, Path]) -> None:
        command = Command(argv=("/usr/bin/gzip", "-n", f"-{level}", "-c"), env=ENV)
        with pair[0].open("rb") as stdin, pair[1].open("wb") as stdout:
            code = sandbox.run(rootfs, command, stdin=stdin, stdout=stdout)
        if code and ran_out(pair[1].parent, ""):
            raise disk_full(pair[1])
        if code:
            raise EnvbuildError(
                "gzip-failed",
                f"the image's gzip ended with {code}",
                hint="if the disk is full, make room, or put the store elsewhere: --store FOLDER",
                exit=Exit.ENGINE,
            )

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        list(pool.map(one, files))


def run_reporting(
    sandbox: Sandbox,
    rootfs: Rootfs,
    command: Command,
    *,
    log: Path,
    on_line: Callable[[bytes], None],
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
) -> int:
    """Run a command and read what it says while it runs.

    Args:
        sandbox, rootfs, command: as in ``Sandbox.run``.
        log: what it says on stderr, and on stdout if that is not given, is appended to this file.
        on_line: called for each such line.
        stdin: nothing by default.
        stdout: where its stdout goes instead.

    Returns:
        The exit status.
    """
    read, write = os.pipe()

    def follow() -> None:
        with os.fdopen(read, "rb") as lines, log.open("ab") as kept:
            for line in lines:
                kept.write(line)
                on_line(line)

    reader = threading.Thread(target=follow)
    reader.start()
    try:
        given = subprocess.DEVNULL if stdin is None else stdin
        return sandbox.run(
            rootfs, command, stdin=given, stdout=write if stdout is None else stdout, stderr=write
        )
    finally:
        os.close(write)
        reader.join()


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for a message."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
