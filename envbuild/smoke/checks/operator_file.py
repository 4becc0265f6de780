"""``operator-file``: the compiled operator is CUDA code for the locked architectures, and the one that loads."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ..causes import hint_of
from ..context import Context
from ..elf import NotElf
from ..installed import by_name, files_of
from ..model import Failure, Operator
from ..operators import cuobjdump, list_code, needs_runtime, wanted_code

REBUILD = "rebuild DeepSpeed's wheel with DS_ACCELERATOR=cuda: without it a machine without a GPU gets the CPU operator"


def run(context: Context) -> dict[str, Any]:
    """Look at the file, then at the module that Python makes of it."""
    operator = context.expectations.operator
    if operator is None:
        raise Failure(
            expected="a compiled operator", seen="none is expected", hint="this recipe compiles none"
        )
    path = locate(operator)
    _only_one(path, operator)
    try:
        cuda = needs_runtime(path)
    except NotElf as error:
        raise Failure(expected="an ELF shared object", seen=str(error), hint=REBUILD) from error
    if not cuda:
        raise Failure(
            expected=f"{operator.file} to be linked against libcudart",
            seen="an object that does not need it: the CPU operator under the same name",
            hint=REBUILD,
        )
    code, ptx = _code(path, operator)
    _installed_as_cuda(operator)
    module = _load(operator, path)
    return {
        "file": str(path),
        "size": path.stat().st_size,
        "module": module,
        "machine_code": sorted(code, key=float),
        "ptx": sorted(ptx, key=float),
    }


def locate(operator: Operator) -> Path:
    """The operator's file, which DeepSpeed's RECORD must list.

    Raises:
        Failure: it is not installed.
    """
    deepspeed = by_name().get("deepspeed")
    path = files_of(deepspeed[0]).get(operator.file) if deepspeed else None
    if path is None or not path.exists():
        raise Failure(
            expected=f"{operator.file} in site-packages, listed in DeepSpeed's RECORD",
            seen="it is not there" if path is None else f"{path} does not exist",
            hint=f"build DeepSpeed's wheel with DS_BUILD_{operator.name.upper()}=1 and DS_ACCELERATOR=cuda",
        )
    return path


def _only_one(path: Path, operator: Operator) -> None:
    stem = operator.module.rsplit(".", 1)[-1]
    twins = sorted(found.name for found in path.parent.glob(f"{stem}*") if found.suffix in (".so", ".py"))
    if twins != [path.name]:
        raise Failure(
            expected=f"one file of the name {stem}: {path.name}",
            seen=", ".join(twins),
            hint="Python takes the first that fits; remove the others",
        )


def _code(path: Path, operator: Operator) -> tuple[frozenset[str], frozenset[str]]:
    program = cuobjdump()
    if program is None:
        raise Failure(
            expected="cuobjdump in triton's package, to list the operator's device code",
            seen="it is not there",
            hint="triton's wheel ships it in triton/backends/nvidia/bin: is triton whole?",
        )
    seen = list_code(program, path)
    wanted = wanted_code(operator.architectures)
    if seen != wanted:
        raise Failure(
            expected=_words(*wanted),
            seen=_words(*seen),
            hint="rebuild the operator with TORCH_CUDA_ARCH_LIST set to the recipe's architectures",
        )
    return seen


def _words(code: frozenset[str], ptx: frozenset[str]) -> str:
    def listed(items: frozenset[str]) -> str:
        return ", ".join(sorted(items, key=float)) or "none"

    return f"machine code for {listed(code)}; PTX for {listed(ptx)}"


def _installed_as_cuda(operator: Operator) -> None:
    """DeepSpeed takes its compiled operator only if its build notes say so; else it compiles at run time."""
    notes = importlib.import_module("deepspeed.git_version_info")
    seen = (notes.installed_ops.get(operator.name), notes.accelerator_name)
    if seen != (True, "cuda"):
        raise Failure(
            expected=f"deepspeed.git_version_info: {operator.name} installed, accelerator cuda",
            seen=f"installed: {seen[0]}, accelerator: {seen[1]}",
            hint=REBUILD,
        )


def _load(operator: Operator, path: Path) -> str:
    importlib.import_module("torch")
    try:
        module = importlib.import_module(operator.module)
    except ImportError as error:
        raise Failure(
            expected=f"`import {operator.module}` to succeed",
            seen=str(error),
            hint=hint_of(str(error), REBUILD),
        ) from error
    seen = Path(str(module.__file__)).resolve()
    if seen != path.resolve() or not hasattr(module, "multi_tensor_adam"):
        raise Failure(
            expected=f"{operator.module} with multi_tensor_adam from {path}",
            seen=f"{seen} with {', '.join(sorted(n for n in dir(module) if n[0] != '_')) or 'nothing'}",
            hint="another copy is earlier on sys.path",
        )
    return module.__name__
