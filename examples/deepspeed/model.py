"""What train.py and load_merged.py share: a small language model in plain torch, and text made from a seed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, LENGTH = 256, 64


class Model(nn.Module):
    """A decoder: each token sees the ones before it. 3.5 million weights as it stands; ``width`` makes it larger."""

    def __init__(self, width: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                width // 64,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The mean loss of guessing each token from the ones before it."""
        given, wanted = tokens[:, :-1], tokens[:, 1:]
        length = given.shape[1]
        hidden = self.tokens(given) + self.places(torch.arange(length, device=tokens.device))
        future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        for block in self.blocks:
            hidden = block(hidden, src_mask=future)
        guesses = self.head(self.norm(hidden))
        return functional.cross_entropy(guesses.flatten(0, 1).float(), wanted.flatten())


def text(batch: int, seed: int) -> torch.Tensor:
    """``batch`` sequences that count up by a step of their own, which the model has to find out: (batch, LENGTH)."""
    generator = torch.Generator().manual_seed(seed)
    first, stride = torch.randint(VOCABULARY, (2, batch, 1), generator=generator)
    return (first + (stride % 7 + 1) * torch.arange(LENGTH)) % VOCABULARY
