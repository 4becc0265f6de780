"""A process that stays for several checks: ``python -m smoke.member rank``, or ``group FOLDER``.

A rank answers one check's ``rank`` function after another; the process of a group answers one check's ``run`` after
another and keeps their ranks in between. Each line of input is ``CHECK<tab>JOB<tab>LOG``; answers are written as
:mod:`.child` writes them. At the end of its input it leaves, with a status other than 0 where a rank did not end well.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from pathlib import Path

from .child import leave
from .child import main as answer
from .team import Team


def main(argv: list[str]) -> int:
    """Serve until the input ends; what a check raises ends the process, which is seen as that check's crash."""
    if argv == ["rank"]:
        _serve("rank", None)
        return 0
    with Team(folder=Path(argv[1])) as team:
        _serve("check", team)
        return 0 if team.close() is None else 1


def _serve(role: str, team: Team | None) -> None:
    for line in sys.stdin:
        check, job, log = line.rstrip("\n").split("\t")
        _write_to(Path(log))
        answer([role, check, job], team=team)
        faulthandler.cancel_dump_traceback_later()


def _write_to(log: Path) -> None:
    """Let what this process prints, libraries and crashes included, go to the log of the check it now serves."""
    sys.stdout.flush()
    sys.stderr.flush()
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.close(stream)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
