"""The bandwidth curve as geometry: paths and ticks that the page's template draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log2, log10

from envbuild.gate.figures import Bandwidth, Point, duration, size

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 14.0, 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A place on an axis in the drawing's units, and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A measured point and what a reader sees when pointing at it."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One collective. ``path`` is SVG's path data; ``peak`` the highest bandwidth, in GB/s."""

    name: str
    path: str
    dots: Sequence[Dot]
    peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawing of ``width`` by ``height`` units; the axes cross at (``left``, ``bottom``)."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    floor: float | None
    floor_label: str


def draw(measured: Bandwidth, *, width: int, height: int, x_ticks: int) -> Plot:
    """Lay the curves out: message size to the right (a doubling is always as wide), bus bandwidth upwards from 0.

    Args:
        measured: at least one curve with at least one point.
        width: of the drawing, in CSS pixels at its natural size.
        height: likewise.
        x_ticks: about how many sizes are named on the axis.
    """
    points = [point for curve in measured.curves.values() for point in curve]
    low, high = (log2(pick(point.bytes for point in points)) for pick in (min, max))
    step = nice_step(max([point.busbw for point in points] + [measured.floor or 0.0]))
    top = step * max(1, ceil(max([point.busbw for point in points] + [measured.floor or 0.0]) / step))
    left, right, upper, lower = _LEFT, width - _RIGHT, _TOP, height - _BOTTOM

    def x(count: float) -> float:
        return round(left + (right - left) * ((log2(count) - low) / ((high - low) or 1)), 1)

    def y(busbw: float) -> float:
        return round(lower - (lower - upper) * busbw / top, 1)

    stride = max(1, ceil((high - low) / max(1, x_ticks - 1)))
    exponents = [floor(high) - stride * index for index in range(int((high - low) // stride) + 1)][::-1]
    return Plot(
        width=width,
        height=height,
        left=left,
        right=right,
        top=upper,
        bottom=lower,
        x_ticks=[Tick(at=x(2.0**exponent), label=size(2.0**exponent)) for exponent in exponents],
        y_ticks=[
            Tick(at=y(step * index), label=f"{step * index:g}") for index in range(round(top / step) + 1)
        ],
        lines=[
            Line(
                name=name,
                path="M" + " L".join(f"{x(point.bytes)} {y(point.busbw)}" for point in curve),
                dots=[Dot(x=x(point.bytes), y=y(point.busbw), title=_title(name, point)) for point in curve],
                peak=max(point.busbw for point in curve),
            )
            for name, curve in measured.curves.items()
        ],
        floor=None if measured.floor is None else y(measured.floor),
        floor_label="" if measured.floor is None else f"floor {measured.floor:g} GB/s",
    )


def nice_step(highest: float) -> float:
    """The distance of the ticks, 1, 2 or 5 times a power of ten, so that four to eight reach ``highest``."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** floor(log10(highest / 4))
    return next((factor * power for factor in (1, 2, 5) if highest / (factor * power) <= 7), 10 * power)


def _title(name: str, point: Point) -> str:
    return f"{name}, {size(point.bytes)}: {point.busbw:.4g} GB/s, {duration(point.seconds)} a call"
