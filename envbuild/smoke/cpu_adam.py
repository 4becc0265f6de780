"""DeepSpeed's optimizer for offloaded state, compiled as users get it: when it is first used.

The image does not bring it: DeepSpeed compiles it ``-march=native``, so that a prebuilt one may crash on another CPU.
``python -m smoke.cpu_adam FOLDER`` compiles it and writes what came of it; checks start that early and wait late.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .causes import hint_of
from .context import Context
from .model import Failure
from .process import tail

CHECKS = frozenset({"cpp-extension", "zero-offload"})
"""The checks that wait for it."""

PAUSE = 0.05
"""Seconds between two looks for the result."""

UNKNOWN = "the compiler's own words are above"

WITHOUT = '; "torch_adam": true in the optimizer\'s params offloads without compiling'
"""The way out for who trains with ``offload_optimizer``, whatever the cause is."""


def folder_of(context: Context) -> Path:
    """Where it is compiled, for all checks that share the ranks."""
    return context.shared / "cpu-adam"


def begin(context: Context, *, at_once: bool = False) -> None:
    """Start compiling in the background if a check that needs it is coming, or ``at_once``; never twice."""
    folder = folder_of(context)
    if folder.exists() or not (at_once or CHECKS.intersection(context.options.get("coming", []))):
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
        ``module``, ``error`` (of the compiled optimizer over its bound), ``compile_seconds``, and
        ``waited_seconds``, which is what was left of them.

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
    if "refused" in found:
        raise _failure(folder, str(found["refused"]))
    return {**found, "waited_seconds": round(time.monotonic() - started, 1)}


def _over(pid: int) -> bool:
    """Whether that child of this process has ended."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _failure(folder: Path, seen: str) -> Failure:
    printed = tail(folder / "log").strip()
    return Failure(
        expected="DeepSpeed to compile cpu_adam in this environment as it is",
        seen=f"{seen}\n{printed[-2000:]}",
        hint=hint_of(f"{seen}\n{printed}", UNKNOWN) + WITHOUT,
    )


def main(argv: list[str]) -> int:
    """Have DeepSpeed compile, load and use it, and write ``result.json`` into the folder."""
    folder = Path(argv[0])
    started = time.monotonic()
    try:
        # torch's own part first: DeepSpeed asks whether that imports, and may go on without.
        importlib.import_module("torch.utils.cpp_extension")
        from deepspeed.ops.op_builder import CPUAdamBuilder

        answer: dict[str, Any] = {"module": CPUAdamBuilder().load().__name__}
        answer["compile_seconds"] = round(time.monotonic() - started, 1)
        answer["error"] = round(_error(), 4)
    except Exception as error:
        answer = {"refused": f"{type(error).__name__}: {error}"}
    partial = folder / "result.partial"
    partial.write_text(json.dumps(answer))
    partial.replace(folder / "result.json")
    return 0


def _error() -> float:
    """The compiled optimizer's largest error over its bound, beside torch's AdamW in float64."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    from . import transformer, zero3

    def make(parameters: list[Any], task: Any) -> Any:
        settings = {"lr": task.lr, "betas": task.betas, "eps": task.eps, "weight_decay": task.weight_decay}
        return DeepSpeedCPUAdam(parameters, adamw_mode=True, **settings)

    return zero3.operator_error(make, transformer.Task(), device="cpu")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
