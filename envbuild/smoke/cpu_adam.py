"""DeepSpeed's optimizer for offloaded state, compiled as users get it: when it is first used.

The image does not bring it: DeepSpeed compiles it ``-march=native``, so that a prebuilt one may crash on another CPU.
``python -m smoke.cpu_adam FOLDER`` compiles it and writes what came of it; checks start that early and wait late.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .context import Context
from .model import Failure
from .process import tail

CHECK = "zero-offload"
"""The check that waits for it."""

PAUSE = 0.05
"""Seconds between two looks for the result."""

HINT = (
    "DeepSpeed compiles cpu_adam when offload_optimizer is first used: g++ and ninja must be on PATH and "
    'TORCH_EXTENSIONS_DIR (or ~/.cache) writable; "torch_adam": true in the optimizer\'s params needs neither'
)


def folder_of(context: Context) -> Path:
    """Where it is compiled, for all checks that share the ranks."""
    return context.shared / "cpu-adam"


def begin(context: Context, *, at_once: bool = False) -> None:
    """Start compiling in the background if the check that needs it is coming, or ``at_once``; never twice."""
    folder = folder_of(context)
    if folder.exists() or not (at_once or CHECK in context.options.get("coming", [])):
        return
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", f"{__package__}.cpu_adam", str(folder)],
            env={**os.environ, "TORCH_EXTENSIONS_DIR": str(folder / "build")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    (folder / "pid").write_text(str(process.pid))


def wait(context: Context) -> dict[str, Any]:
    """Wait for what :func:`begin` started, or start it.

    Returns:
        ``module``, ``compile_seconds``, and ``waited_seconds``, which is what was left of them.

    Raises:
        Failure: it was not compiled.
    """
    started = time.monotonic()
    begin(context, at_once=True)
    folder = folder_of(context)
    pid = int((folder / "pid").read_text())
    while True:
        over = _over(pid)
        if (folder / "result.json").exists():
            break
        if over:
            raise _failure(folder, "the compiling process ended without an answer")
        time.sleep(PAUSE)
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    if "error" in found:
        raise _failure(folder, str(found["error"]))
    return {**found, "waited_seconds": round(time.monotonic() - started, 1)}


def _over(pid: int) -> bool:
    """Whether that child of this process has ended."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _failure(folder: Path, seen: str) -> Failure:
    return Failure(
        expected="DeepSpeed to compile cpu_adam in this environment as it is",
        seen=f"{seen}\n{tail(folder / 'log').strip()[-2000:]}",
        hint=HINT,
    )


def main(argv: list[str]) -> int:
    """Have DeepSpeed compile and load it, and write ``result.json`` into the folder."""
    folder = Path(argv[0])
    started = time.monotonic()
    try:
        from deepspeed.ops.op_builder import CPUAdamBuilder

        module = CPUAdamBuilder().load()
        answer: dict[str, Any] = {"module": module.__name__}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    answer["compile_seconds"] = round(time.monotonic() - started, 1)
    partial = folder / "result.partial"
    partial.write_text(json.dumps(answer))
    partial.replace(folder / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
