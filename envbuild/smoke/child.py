"""The process of one check, or of one rank of it: ``python -m smoke.child check|rank ID JOB``.

``JOB`` is a JSON file: expectations, scratch folder, result file, time limit, options. The answer is written to the
result file; no file, or a status other than 0, is a crash. Whatever the check: a process that imported torch must have
mapped one copy of each CUDA library, the pinned one.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from .checks import find
from .context import Context
from .maps import judge_process
from .model import Failure, NotRun, parse_expectations
from .team import Team

_PR_SET_PDEATHSIG = 1


def main(argv: list[str], *, team: Team | None = None) -> int:
    """Run it; the exit status is 0 when an answer was written, whatever the answer.

    Args:
        argv: role, check and job.
        team: the ranks of the check's group (:mod:`.member`).
    """
    role, name, job_path = argv
    job = json.loads(Path(job_path).read_text())
    _die_with_parent(int(job["parent"]))
    faulthandler.enable()
    # Where a process hangs is worth more than that it does: the stacks go to the log before it is killed.
    left = float(job["deadline"]) - time.monotonic()
    faulthandler.dump_traceback_later(max(0.5, left - 0.1 * float(job["timeout"])), exit=False)
    context = Context(
        check=name,
        expectations=parse_expectations(job["expectations"]),
        scratch=Path(job["scratch"]),
        timeout=float(job["timeout"]),
        deadline=float(job["deadline"]),
        gpus=int(job["gpus"]),
        nodes=int(job["nodes"]),
        options=job["options"],
        team=team,
    )
    answer = _answer(role, name, context)
    result = Path(job["result"])
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(answer))
    partial.replace(result)
    return 0


def _answer(role: str, name: str, context: Context) -> dict[str, Any]:
    check = find(name)
    try:
        module = check.load()
        numbers = module.rank(context) if role == "rank" else module.run(context)
        if "torch" in sys.modules and context.expectations.libraries:
            judge_process(context.expectations, numbers)
    except Failure as no:
        return {
            "status": "failed",
            "expected": no.expected,
            "seen": no.seen,
            "hint": no.hint,
            "numbers": no.numbers,
            "warnings": context.warnings,
        }
    except NotRun as unable:
        return {
            "status": "not-run",
            "seen": unable.reason,
            "numbers": unable.numbers,
            "warnings": context.warnings,
        }
    return {"status": "passed", "numbers": numbers, "warnings": context.warnings}


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, so that ``kill -9`` of the suite leaves nothing."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def leave(status: int) -> NoReturn:
    """End this process, and its part in the process group that a check joined: NCCL complains of those that do not.

    A group of gloo is left by ending at once: its threads may still be freeing tensors, so that destroying the group
    can wait for ever (torch 2.7), and Python's shutdown can abort the process (newer ones).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            if dist.get_backend() == "gloo":
                os._exit(status)
            dist.destroy_process_group()
    sys.exit(status)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
