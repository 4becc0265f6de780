"""Matrix products and convolutions against float64: the cases, how they are computed, and how far off they may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from .model import Failure

LIKELY = 8.0
"""How many standard deviations a sum of independent rounding errors may be off: at most 2 exp(-8²/2) = 3e-14 of all
elements are further (Hoeffding's inequality), and a check has some 10^7."""


WINOGRAD = 16.0
"""cuDNN may compute a 3x3 convolution in float32 by Winograd's F(4x4, 3x3), whose transformations multiply rounding
errors: with these inputs its worst element is off by 5.5 times the bound of a direct sum (computed on a CPU)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How one kind of arithmetic rounds.

    ``into`` is the largest relative error of an input as the hardware takes it, ``out`` that of the result as it is
    stored, ``step`` that of one addition of the accumulator. ``chopped`` says that the accumulator may cut off
    instead of rounding, so that errors of additions have one sign and add up.
    """

    name: str
    dtype: torch.dtype
    into: float
    out: float
    step: float
    chopped: bool


PRECISIONS = (
    Precision(name="fp32", dtype=torch.float32, into=0.0, out=2.0**-24, step=2.0**-24, chopped=False),
    Precision(name="tf32", dtype=torch.float32, into=2.0**-10, out=2.0**-24, step=2.0**-23, chopped=True),
    Precision(name="bf16", dtype=torch.bfloat16, into=0.0, out=2.0**-8, step=2.0**-23, chopped=True),
    Precision(name="fp16", dtype=torch.float16, into=0.0, out=2.0**-11, step=2.0**-23, chopped=True),
)
"""IEEE 754 binary32 has a unit roundoff of 2^-24, binary16 2^-11, bfloat16 2^-8. TensorFloat-32 keeps 10 bits of the
fraction; cutting the others off costs up to 2^-10. Tensor cores accumulate in binary32 without rounding to nearest."""

FP32, TF32 = PRECISIONS[0], PRECISIONS[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One product. ``left`` and ``right`` are float64 on the CPU, ``terms`` how many products each element sums.

    A matrix product is (m, k) @ (k, n); a convolution has images (n, c, h, w) and kernels (d, c, 3, 3).
    """

    name: str
    left: torch.Tensor
    right: torch.Tensor
    terms: int

    @property
    def convolution(self) -> bool:
        """Whether it is one."""
        return bool(self.left.dim() == 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """The inputs as a type holds them, the float64 result, and for each element the length of its terms: the root
    of the sum of the squares of the products that it sums."""

    left: torch.Tensor
    right: torch.Tensor
    result: torch.Tensor
    length: torch.Tensor


def cases(seed: int = 7) -> tuple[Case, ...]:
    """Sizes that suit tensor cores, odd ones, and a convolution; normally distributed values."""
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        Case(name="matrix 512x1024x768", left=values(512, 1024), right=values(1024, 768), terms=1024),
        Case(name="matrix 509x1021x763", left=values(509, 1021), right=values(1021, 763), terms=1021),
        Case(
            name="convolution 8x64x32x32 by 64x64x3x3",
            left=values(8, 64, 32, 32),
            right=values(64, 64, 3, 3),
            terms=64 * 9,
        ),
    )


def exact(case: Case, precision: Precision) -> Exact:
    """Round the inputs to the type and compute in float64 on the CPU, which shares no code with the GPU."""
    left, right = (part.to(precision.dtype) for part in (case.left, case.right))
    product = multiply(case, left.double(), right.double())
    squares = multiply(case, left.double().square(), right.double().square())
    return Exact(left=left, right=right, result=product, length=squares.sqrt())


def multiply(case: Case, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The case's product, in the type and on the device of the inputs."""
    if case.convolution:
        return functional.conv2d(left, right, padding=1)
    return left @ right


def bound(case: Case, precision: Precision, against: Exact) -> torch.Tensor:
    """How far each element may be from ``against.result`` (docs/reference/suite.md derives it).

    Inputs: twice ``terms`` independent errors, each at most ``into`` of its product. Accumulator: ``terms`` additions
    to partial sums whose lengths grow as a random walk's, so that the last is ``length``; rounded, their errors are
    independent; chopped, they add up. Output: one rounding of the result.
    """
    inputs = LIKELY * math.sqrt(2) * precision.into
    steps = precision.step * (2 / 3 * case.terms if precision.chopped else math.sqrt(case.terms / 2))
    if case.convolution and not precision.chopped:
        steps *= WINOGRAD
    return (inputs + LIKELY * steps) * against.length + precision.out * against.result.abs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The largest error over its bound, and over what float32's bound would be: above 1, it was no float32."""

    error: float
    of_fp32: float


def judge(case: Case, precision: Precision, against: Exact, seen: torch.Tensor, *, where: str) -> Judged:
    """Compare a result with float64.

    Args:
        case: the product.
        precision: the one that was asked for.
        against: from :func:`exact`.
        seen: the result, on any device.
        where: what computed it, for a message.

    Raises:
        Failure: another type or shape, not a number, or further off than the bound.
    """
    asked = f"{precision.name} {case.name} on {where}"
    if seen.dtype != precision.dtype or seen.shape != against.result.shape:
        raise Failure(
            expected=f"{asked}: {precision.dtype}, shape {list(against.result.shape)}",
            seen=f"{seen.dtype}, shape {list(seen.shape)}",
            hint="torch gave something else than was asked for: is this build whole? See versions",
        )
    errors = (seen.detach().cpu().double() - against.result).abs()
    ratio = errors / bound(case, precision, against)
    worst = int(ratio.nan_to_num(math.inf).argmax())
    judged = Judged(
        error=float(ratio.flatten()[worst]), of_fp32=float((errors / bound(case, FP32, against)).max())
    )
    if not judged.error <= 1:
        value, wanted = float(seen.flatten()[worst]), float(against.result.flatten()[worst])
        raise Failure(
            expected=f"{asked}: every element within the bound of float64",
            seen=f"element {worst}: {value:.9g} instead of {wanted:.9g}, {judged.error:.3g} times the bound; "
            f"{int((~(ratio <= 1)).sum())} of {ratio.numel()} elements are beyond theirs",
            hint="this GPU or a library computes wrongly: run the check on the machine's other GPUs, and see host",
        )
    return judged


def judge_lower(case: Case, judged: Judged, *, where: str) -> None:
    """TensorFloat-32 must really be what was computed with: its error must be one that float32 does not have.

    Raises:
        Failure: the result is as exact as float32's.
    """
    if not judged.of_fp32 > 1:
        raise Failure(
            expected=f"tf32 {case.name} on {where}: errors above float32's bound, since 13 bits of the inputs are cut",
            seen=f"the largest error is {judged.of_fp32:.3g} of float32's bound",
            hint="tensor cores were not used: NVIDIA_TF32_OVERRIDE=0 forbids them; so would a library without them",
        )


def set_tf32(allowed: bool) -> None:
    """Allow or forbid TensorFloat-32 in matrix products and in cuDNN, in the words of this torch.

    From 2.9 on torch has ``fp32_precision`` and refuses to mix it with ``allow_tf32``.
    """
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "conv") and hasattr(backends.cudnn.conv, "fp32_precision"):
        backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"
        backends.cudnn.conv.fp32_precision = "tf32" if allowed else "ieee"
        return
    backends.cuda.matmul.allow_tf32 = allowed
    backends.cudnn.allow_tf32 = allowed
