"""The small model that is trained twice: with DeepSpeed, and in the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Sizes, data and optimizer settings; the same on every rank and in the reference.

    ``batch`` is sequences a rank and step; ``length`` tokens a sequence.
    """

    seed: int = 20
    vocabulary: int = 128
    width: int = 128
    heads: int = 4
    layers: int = 2
    length: int = 32
    batch: int = 8
    steps: int = 6
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1.0


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and added to its input."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.heads = task.heads
        self.first = nn.LayerNorm(task.width)
        self.mix = nn.Linear(task.width, 3 * task.width)
        self.join = nn.Linear(task.width, task.width)
        self.second = nn.LayerNorm(task.width)
        self.up = nn.Linear(task.width, 4 * task.width)
        self.down = nn.Linear(4 * task.width, task.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Batch, length, width in and out."""
        batch, length, width = x.shape
        parts = self.mix(self.first(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.join(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """Tokens in, the mean cross entropy of the next token out."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.tokens = nn.Embedding(task.vocabulary, task.width)
        self.places = nn.Embedding(task.length, task.width)
        self.blocks = nn.ModuleList(Block(task) for _ in range(task.layers))
        self.norm = nn.LayerNorm(task.width)
        self.head = nn.Linear(task.width, task.vocabulary)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss, computed in float32 from the logits."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.places(places)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x)).float()
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def initial(task: Task) -> Transformer:
    """The model before the first step, on the CPU in float32, its weights rounded to bfloat16.

    DeepSpeed makes its float32 master weights from the bfloat16 ones, so both sides must start there.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        model = Transformer(task)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return model


def batch_of(task: Task, *, step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and next tokens of one rank and step: walks by a fixed stride, which can be learnt."""
    generator = torch.Generator().manual_seed(task.seed * 1_000_003 + step * 1009 + rank)
    start = torch.randint(task.vocabulary, (task.batch, 1), generator=generator)
    stride = torch.randint(1, 8, (task.batch, 1), generator=generator)
    walk = (start + stride * torch.arange(task.length + 1)) % task.vocabulary
    return walk[:, :-1].contiguous(), walk[:, 1:].contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training gave: each step's loss, gradient norm and wall seconds, and the float32 weights after the last."""

    losses: tuple[float, ...]
    norms: tuple[float, ...]
    seconds: tuple[float, ...] = ()
    weights: Mapping[str, torch.Tensor]


def reference(task: Task, *, world: int, device: str) -> Trained:
    """Train on all ranks' batches in one process, in float32, with torch's AdamW."""
    model = initial(task).to(device)
    settings: dict[str, Any] = {"lr": task.lr, "betas": task.betas, "eps": task.eps}
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=task.weight_decay, **settings)
    losses, norms = [], []
    for step in range(task.steps):
        parts = [batch_of(task, step=step, rank=rank) for rank in range(world)]
        tokens = torch.cat([part[0] for part in parts]).to(device)
        targets = torch.cat([part[1] for part in parts]).to(device)
        optimizer.zero_grad()
        loss = model(tokens, targets)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]  # torch leaves it untyped in some releases
        squares = sum(float(p.grad.double().pow(2).sum()) for p in model.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(float(loss.detach()))
        norms.append(squares**0.5)
    weights = {name: p.detach().float().cpu() for name, p in model.named_parameters()}
    return Trained(losses=tuple(losses), norms=tuple(norms), weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far one training is from another: largest relative difference of loss and of gradient norm, and
    ``update``: the length of the difference of the two weight updates over the reference's, all weights together."""

    loss: float
    norm: float
    update: float


def distance(task: Task, trained: Trained, against: Trained) -> Distance:
    """Compare with the reference. A NaN anywhere makes the distance NaN, which is within no bound."""
    start = {name: p.detach() for name, p in initial(task).named_parameters()}
    apart = length = 0.0
    for name, weight in against.weights.items():
        apart += float((trained.weights[name].cpu() - weight).double().pow(2).sum())
        length += float((weight - start[name]).double().pow(2).sum())
    return Distance(
        loss=_largest(trained.losses, against.losses),
        norm=_largest(trained.norms, against.norms),
        update=(apart / length) ** 0.5,
    )


def _largest(seen: tuple[float, ...], wanted: tuple[float, ...]) -> float:
    differences = [abs(have - want) / abs(want) for have, want in zip(seen, wanted, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)
