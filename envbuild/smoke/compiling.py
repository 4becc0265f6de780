"""A small model compiled by torch.compile and a Triton kernel, each beside what it must equal."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .model import Failure

WIDTH, BATCH = 96, 64
UNIT = 2.0**-24
"""float32's unit roundoff."""

TIMES = 4.0
"""The compiled model sums in another order than eager torch, and so may be off from float64 by somewhat more."""

SLACK = 16.0
"""Units of rounding at the size of the largest element: where eager torch happens to be exact."""

BLOCK, COUNT, FACTOR = 1024, 100_003, 7


class Small(nn.Module):
    """A layer norm, two linear layers, gelu, softmax: what Inductor fuses into kernels of its own, and what it does
    not."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Batch and width in and out."""
        y = functional.gelu(self.up(self.norm(x)))
        return x + functional.softmax(self.down(y), dim=-1) * torch.sin(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The output of a model, and the gradients of its parameters and input."""

    output: torch.Tensor
    gradients: Mapping[str, torch.Tensor]

    def parts(self) -> dict[str, torch.Tensor]:
        """All of it, by name."""
        return {"output": self.output, **self.gradients}


def once(call: Callable[[torch.Tensor], torch.Tensor], model: nn.Module, x: torch.Tensor) -> Pass:
    """Forward and backward. ``call`` is the model, or what was compiled of it."""
    x = x.detach().clone().requires_grad_()
    output = call(x)
    weight = torch.linspace(-1, 1, output.numel(), device=x.device, dtype=x.dtype).view_as(output)
    (output * weight).sum().backward()
    gradients = {
        f"gradient of {name}": p.grad.detach() for name, p in model.named_parameters() if p.grad is not None
    }
    if x.grad is None or len(gradients) != len(list(model.parameters())):
        raise Failure(
            expected="a gradient of every parameter and of the input",
            seen=f"gradients of {', '.join(gradients) or 'nothing'}",
            hint="autograd is broken in this torch: see the check versions",
        )
    return Pass(output=output.detach(), gradients={**gradients, "gradient of the input": x.grad.detach()})


def passes(device: str) -> tuple[Pass, Pass, Pass, int]:
    """The same pass in float64 on the CPU, eagerly and compiled in float32 on ``device``.

    Returns:
        Those three, and how many graphs were compiled. No graph may break.
    """
    from torch._dynamo.utils import counters

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        eager, x = Small(), torch.randn(BATCH, WIDTH)
    exact = copy.deepcopy(eager).double()
    eager = eager.to(device)
    mine = copy.deepcopy(eager)
    compiled = torch.compile(mine, fullgraph=True)
    against = once(exact, exact, x.double())
    plain = once(eager, eager, x.to(device))
    fast = once(compiled, mine, x.to(device))
    return against, plain, fast, int(counters["stats"]["unique_graphs"])


def judge(against: Pass, plain: Pass, fast: Pass, *, where: str) -> dict[str, float]:
    """The compiled pass must be as near to float64 as the eager one.

    Args:
        against: in float64.
        plain: eager.
        fast: compiled.
        where: the device, for a message.

    Returns:
        The error over its bound, by part; at most 1. The bound is :data:`TIMES` the largest error of the eager pass
        in that part, and :data:`SLACK` roundings of the part's largest element.

    Raises:
        Failure: a part is further off, or is not a number.
    """
    ratios: dict[str, float] = {}
    wrong = []
    eager, compiled = plain.parts(), fast.parts()
    for name, want in against.parts().items():
        off = float((eager[name].cpu().double() - want).abs().max())
        bound = TIMES * off + SLACK * UNIT * float(want.abs().max())
        error = float((compiled[name].cpu().double() - want).abs().max())
        ratios[name] = error / bound
        if not error <= bound:
            wrong.append(
                f"{name} is off by {error:.3g}, {error / bound:.3g} times the bound; eager by {off:.3g}"
            )
    if wrong:
        raise Failure(
            expected=f"the compiled model on {where} to be as near to float64 as the eager one",
            seen="\n".join(wrong),
            hint="Inductor or Triton generates wrong code for this GPU: use the versions of a recipe that passes",
        )
    return ratios


def launch(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the hand-written kernel on ``device``: elements and sums of blocks."""
    from .kernels import mix

    source = start().to(device)
    target = torch.zeros_like(source)
    blocks = -(-COUNT // BLOCK)
    sums = torch.zeros(blocks, dtype=torch.int64, device=device)
    grid: Any = (blocks,)
    mix[grid](source, target, sums, COUNT, FACTOR, BLOCK=BLOCK)
    return target.cpu(), sums.cpu()


def start() -> torch.Tensor:
    """The kernel's input."""
    return (torch.arange(COUNT, dtype=torch.int64) * 40503) % 65_521


def judge_kernel(target: torch.Tensor, sums: torch.Tensor, *, where: str) -> None:
    """Every element and every sum must be the one right integer.

    Raises:
        Failure: how many are not, and the first.
    """
    value = start()
    want = (value ^ (value >> 3)) * FACTOR + torch.arange(COUNT)
    padded = functional.pad(want, (0, -COUNT % BLOCK)).view(-1, BLOCK).sum(1)
    for name, seen, right in (("element", target, want), ("sum of block", sums, padded)):
        if not torch.equal(seen, right):
            places = (seen != right).nonzero().flatten()
            at = int(places[0])
            raise Failure(
                expected=f"the Triton kernel on {where} to give the exact integers",
                seen=f"{places.numel()} wrong, the first is {name} {at}: {int(seen[at])} instead of {int(right[at])}",
                hint="Triton generates wrong code for this GPU: use the versions of a recipe that passes",
            )


def judge_caches(
    graphs: int, inductor: Path, triton: Path | None, kernels: tuple[str, ...]
) -> dict[str, int]:
    """Something was compiled, now and here: the caches were empty before.

    Args:
        graphs: how many torch.compile compiled.
        inductor: its cache folder.
        triton: Triton's, or ``None`` where it takes no part (on a CPU).
        kernels: beginnings of names that must be among the compiled kernels.

    Raises:
        Failure: the model ran uncompiled, or a kernel is missing.
    """
    generated = sorted(path.name for path in inductor.rglob("*.py")) if inductor.exists() else []
    if graphs < 1 or not generated:
        raise Failure(
            expected="torch.compile to compile the model",
            seen=f"{graphs} graphs, {len(generated)} generated files: it ran as it is",
            hint="TORCH_COMPILE_DISABLE or TORCHDYNAMO_DISABLE is set, or the model was not compiled at all",
        )
    compiled = sorted(path.name for path in triton.rglob("*.cubin")) if triton is not None else []
    missing = [name for name in kernels if not any(file.startswith(name) for file in compiled)]
    if missing:
        raise Failure(
            expected=f"kernels named {', '.join(kernels)} in the fresh TRITON_CACHE_DIR",
            seen=", ".join(compiled) or "none was compiled",
            hint="the kernels came from elsewhere: is TRITON_CACHE_DIR overridden?",
        )
    return {"graphs": graphs, "generated": len(generated), "kernels": len(compiled)}
