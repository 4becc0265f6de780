"""A model's shape, given or derived from its number of parameters by the nearest published model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from envbuild.advise.units import count_text
from envbuild.errors import EnvbuildError, Exit

_NEAR = 1.25
"""A published shape is taken as it is when its size is within this ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A model whose paper or model card gives its shape."""

    name: str
    parameters: float
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    sequence: int


def _published(
    name: str, parameters: float, layers: int, hidden: int, heads: int, vocabulary: int, sequence: int
) -> Published:
    return Published(
        name=name,
        parameters=parameters,
        layers=layers,
        hidden=hidden,
        heads=heads,
        vocabulary=vocabulary,
        sequence=sequence,
    )


PUBLISHED = (
    # GPT-3: Brown et al. 2020, table 2.1. LLaMA: Touvron et al. 2023, table 2. Llama 2 and 3: their papers.
    _published("GPT-3 Small", 125e6, 12, 768, 12, 50257, 2048),
    _published("GPT-3 Medium", 350e6, 24, 1024, 16, 50257, 2048),
    _published("GPT-3 Large", 760e6, 24, 1536, 16, 50257, 2048),
    _published("GPT-3 XL", 1.3e9, 24, 2048, 16, 50257, 2048),
    _published("GPT-3 2.7B", 2.65e9, 32, 2560, 32, 50257, 2048),
    _published("LLaMA 7B", 6.7e9, 32, 4096, 32, 32000, 2048),
    _published("Llama 3 8B", 8.0e9, 32, 4096, 32, 128256, 8192),
    _published("LLaMA 13B", 13.0e9, 40, 5120, 40, 32000, 2048),
    _published("LLaMA 33B", 32.5e9, 60, 6656, 52, 32000, 2048),
    _published("LLaMA 65B", 65.2e9, 80, 8192, 64, 32000, 2048),
    _published("Llama 2 70B", 70e9, 80, 8192, 64, 32000, 4096),
    _published("GPT-3 175B", 175e9, 96, 12288, 96, 50257, 2048),
    _published("Llama 3 405B", 405e9, 126, 16384, 128, 128256, 8192),
)

GPT3_RATES = (
    (125e6, 6.0e-4),
    (350e6, 3.0e-4),
    (760e6, 2.5e-4),
    (1.3e9, 2.0e-4),
    (2.7e9, 1.6e-4),
    (6.7e9, 1.2e-4),
    (13e9, 1.0e-4),
    (175e9, 0.6e-4),
)
"""Learning rates by size (Brown et al. 2020, table 2.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A transformer: ``parameters`` in all, ``origin`` says where its shape comes from."""

    parameters: int
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    sequence: int
    origin: str

    @property
    def largest_layer(self) -> int:
        """Parameters of the largest single tensor's layer: the MLP's 4h×h, or the embedding V×h."""
        return max(4 * self.hidden**2, self.vocabulary * self.hidden)


def parameters_of(layers: int, hidden: int, vocabulary: int) -> int:
    """12·L·h² + 13·L·h + V·h: a GPT-like transformer with tied embeddings (Narayanan et al. 2021, equation 2)."""
    return layers * (12 * hidden**2 + 13 * hidden) + vocabulary * hidden


def shape(
    parameters: int | None,
    *,
    layers: int | None = None,
    hidden: int | None = None,
    vocabulary: int | None = None,
    sequence: int | None = None,
) -> Model:
    """The model of that many parameters; what is not given comes from the nearest published one.

    Raises:
        EnvbuildError: exit 2: neither a size nor a whole shape; or a shape that has not nearly that many parameters.
    """
    if parameters is None:
        if layers is None or hidden is None:
            raise EnvbuildError(
                "no-model-size",
                "how large is the model?",
                hint="give --params 7b, or --layers and --hidden",
                exit=Exit.USAGE,
            )
        parameters = parameters_of(layers, hidden, vocabulary or 32000)
    near = min(PUBLISHED, key=lambda model: abs(math.log(model.parameters / parameters)))
    words = vocabulary or near.vocabulary
    deep, wide, origin = _size(parameters, layers, hidden, words, near)
    return Model(
        parameters=parameters,
        layers=deep,
        hidden=wide,
        heads=near.heads if wide == near.hidden else max(1, wide // 128),
        vocabulary=words,
        sequence=sequence or near.sequence,
        origin=origin,
    )


def _size(
    parameters: int, layers: int | None, hidden: int | None, words: int, near: Published
) -> tuple[int, int, str]:
    if layers is not None and hidden is not None:
        total = parameters_of(layers, hidden, words)
        if not parameters / 2 <= total <= parameters * 2:
            raise EnvbuildError(
                "shape-and-size",
                f"--layers {layers} and --hidden {hidden} (vocabulary {words}) make {count_text(total)} parameters, "
                f"not {count_text(parameters)}",
                hint="leave out --params, or --layers and --hidden",
                exit=Exit.USAGE,
            )
        return layers, hidden, "as given"
    if layers is not None:
        return layers, _round(math.sqrt(parameters / (12 * layers))), "hidden from N ≈ 12·L·h²"
    if hidden is not None:
        return max(1, round(parameters / (12 * hidden**2))), hidden, "layers from N ≈ 12·L·h²"
    ratio = parameters / near.parameters
    if 1 / _NEAR <= ratio <= _NEAR:
        return near.layers, near.hidden, f"as {near.name}"
    aspect = near.hidden / near.layers
    deep = max(1, round((parameters / (12 * aspect**2)) ** (1 / 3)))
    wide = _round(math.sqrt(parameters / (12 * deep)))
    return deep, wide, f"h/L as {near.name}, N ≈ 12·L·h²"


def _round(width: float) -> int:
    """To a multiple of 128, as published models have it; finer where the model is small."""
    step = 128 if width >= 1024 else 16 if width >= 64 else 8
    return max(8, round(width / step) * step)


def learning_rate(parameters: int) -> float:
    """A rate to start from: that of the nearest size of GPT-3."""
    return min(GPT3_RATES, key=lambda row: abs(math.log(row[0] / parameters)))[1]
