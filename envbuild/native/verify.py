"""Is the wheel that came out the CUDA operator? DeepSpeed also builds a CPU one, under the same name.

Without ``DS_ACCELERATOR=cuda``, or without a working nvcc, setup.py succeeds on a machine without a GPU and the
module is there, but has no CUDA in it; DeepSpeed then ignores it on a GPU and compiles when it runs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.native.objects import gpu_code, needed

MODULES = {"fused_adam": "deepspeed/ops/adam/fused_adam_op"}
"""Where each operator's module lies in the wheel, without the suffix of extension modules."""


def check_wheel(path: Path, *, operators: Sequence[str], architectures: Sequence[str]) -> None:
    """Refuse a wheel that lacks an operator, CUDA, or code for an architecture.

    Args:
        path: the built wheel.
        operators: the recipe's.
        architectures: the recipe's (``9.0``, ``9.0+PTX``).

    Raises:
        EnvbuildError: exit 5, ids ``operator-missing``, ``operator-not-cuda``, ``operator-architectures``.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for operator in operators:
            stem = MODULES[operator]
            found = [name for name in names if name.startswith(f"{stem}.") and name.endswith(".so")]
            if len(found) != 1:
                raise _refused(
                    "operator-missing",
                    f"the built wheel has {len(found)} modules {stem}*.so; one was expected",
                    path.name,
                )
            check_module(
                found[0], archive.read(found[0]), architectures=architectures, where=f"{path.name}:{found[0]}"
            )


def check_module(operator: str, data: bytes, *, architectures: Sequence[str], where: str) -> None:
    """Refuse a module that is not linked with the CUDA runtime or lacks code for an architecture.

    Args:
        operator: what to call it in messages.
        data: the module's bytes.
        architectures: the recipe's.
        where: file and member, for the error.

    Raises:
        EnvbuildError: exit 5.
    """
    try:
        libraries, code = needed(data), gpu_code(data)
    except ValueError as error:
        raise _refused("operator-not-cuda", f"{operator} is damaged: {error}", where) from error
    if not any(name.startswith("libcudart.so") for name in libraries):
        seen = ", ".join(libraries) or "nothing"
        raise _refused(
            "operator-not-cuda",
            f"{operator} is not the CUDA operator: it needs {seen}, and no libcudart.so",
            where,
        )
    cubin, ptx = expected_code(architectures)
    missing = [f"sm_{number}" for number in cubin if number not in code.cubin]
    missing += [f"PTX for {number}" for number in ptx if number not in code.ptx]
    if missing:
        has = [*(f"sm_{number}" for number in code.cubin), *(f"PTX for {number}" for number in code.ptx)]
        raise _refused(
            "operator-architectures",
            f"{operator} lacks {', '.join(missing)}; it has {', '.join(has) or 'no GPU code'}",
            where,
        )


def expected_code(architectures: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """CUDA's numbers of machine code and PTX that TORCH_CUDA_ARCH_LIST's words ask for: ``9.0+PTX`` is 90 and 90."""
    cubin = tuple(int(word.removesuffix("+PTX").replace(".", "")) for word in architectures)
    ptx = tuple(number for word, number in zip(architectures, cubin, strict=True) if word.endswith("+PTX"))
    return cubin, ptx


def _refused(id: str, message: str, where: str) -> EnvbuildError:
    return EnvbuildError(
        id,
        message,
        where=where,
        hint="the locked toolchain did not compile for CUDA: run `envbuild lock` again, or report it as a bug",
        exit=Exit.VERIFY,
    )
