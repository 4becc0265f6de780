"""A process that works on a prefix: it ends with this one, and leaves nothing running behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from envbuild.environment import follow
from envbuild.environment.prefix import Claim


def clean_environ(claim: Claim, environ: Mapping[str, str]) -> dict[str, str]:
    """What programs of a new environment are started with: nothing that changes what they write."""
    kept = {name: environ[name] for name in ("HOME", "TMPDIR") if environ.get(name)}
    return {
        **kept,
        "PATH": f"{claim.path}/bin{os.pathsep}{os.defpath}",
        "CONDA_PREFIX": str(claim.path),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }


@contextmanager
def working(
    claim: Claim, argv: Sequence[str], *, env: Mapping[str, str], cwd: str | None = None, merged: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``argv`` in a session of its own, with the claim's lock; at the end nothing of the session runs.

    Args:
        claim: the prefix it works on.
        argv: the program, by its path, and its arguments.
        env: its whole environment.
        cwd: where it runs.
        merged: whether stderr goes where stdout goes (a pipe); otherwise it has a pipe of its own.
    """
    process = subprocess.Popen(
        [sys.executable, "-IS", follow.__file__, str(os.getpid()), *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        env=dict(env),
        cwd=cwd,
        umask=0o022,
        pass_fds=(claim.handle,),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
