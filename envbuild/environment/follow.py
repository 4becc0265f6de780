"""Becomes another program that ends when its starter ends: ``python -IS follow.py PARENT PROGRAM ARGUMENT…``.

Standard library only, and run by its path: the program's environment is passed on as it is. Linux alone
(prctl(2), ``PR_SET_PDEATHSIG``, which lasts across execve).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Never returns."""
    parent, program = int(arguments[0]), arguments[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before it could be followed
        os._exit(1)
    try:
        os.execv(program[0], program)  # noqa: S606  # that is what this program is for
    except OSError as error:
        print(f"{program[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
