"""What a person wants to see of a check's numbers: the one figure of each, the curves, the steps.

The numbers come from inside a container and are free in form, so everything here takes what it knows and leaves out
what it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from envbuild.gate.report import CheckRecord
from envbuild.gate.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One size of a collective: ``bytes``, ``seconds`` of a call, bus bandwidth in GB/s (1e9 bytes a second)."""

    bytes: int
    seconds: float
    busbw: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """The bandwidth curves of the ``nccl`` check, by collective, and the floor in GB/s (``None``: there is none)."""

    curves: Mapping[str, Sequence[Point]]
    floor: float | None
    source: str
    link: str
    transport: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """A training run: the seconds of each step, and the losses (which may be missing)."""

    name: str
    seconds: Sequence[float]
    losses: Sequence[float]


def number(value: object) -> float | None:
    """A finite number, or ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number that no float holds
        return None
    return found if isfinite(found) else None


def numbers(value: object) -> list[float]:
    """The finite numbers of a list."""
    items = value if isinstance(value, list | tuple) else []
    return [found for item in items if (found := number(item)) is not None]


def bandwidth(verdict: Verdict) -> Bandwidth | None:
    """What the ``nccl`` check measured, or ``None`` where it measured nothing."""
    check = next((check for check in verdict.checks if check.id == "nccl"), None)
    said = check.numbers if check else {}
    listed = _mapping(said.get("curve"))
    curves = {str(kind): found for kind, points in listed.items() if (found := _points(points))}
    if not curves:
        return None
    floor = _mapping(said.get("floor"))
    return Bandwidth(
        curves=curves,
        floor=number(floor.get("busbw")),
        source=str(floor.get("source") or ""),
        link=str(said.get("link") or ""),
        transport=str(said.get("transport") or ""),
    )


def training(verdict: Verdict) -> list[Steps]:
    """Every list of step times in the checks' numbers, named by check and, where a check has several, by its part."""
    return [steps for check in verdict.checks for steps in _steps(check.id, check.numbers, depth=3)]


def pins(verdict: Verdict) -> list[Mapping[str, str | None]]:
    """The rows ``name, package, declared, resolved, installed, loaded`` of the ``loaded`` check."""
    check = next((check for check in verdict.checks if check.id == "loaded"), None)
    rows = check.numbers.get("pins") if check else None
    keys = ("name", "package", "declared", "resolved", "installed", "loaded")
    listed = rows if isinstance(rows, list) else []
    return [
        {key: str(row[key]) if row.get(key) is not None else None for key in keys}
        for row in listed
        if isinstance(row, dict)
    ]


def key_number(check: CheckRecord) -> str:
    """The one figure of a check, or an empty text."""
    if check.status == "not-run":
        return ""
    return _FIGURES.get(check.id, _first)(check.numbers)


def size(count: float) -> str:
    """Bytes in the powers of two that collectives double through: ``8 B``, ``4 KiB``, ``1 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:g} {unit}"
        count /= 1024
    return f"{count:g} GiB"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _points(value: object) -> list[Point]:
    found = []
    for item in value if isinstance(value, list) else []:
        got = _mapping(item)
        count, seconds, busbw = (number(got.get(key)) for key in ("bytes", "seconds", "busbw"))
        if count is not None and count >= 1 and seconds is not None and busbw is not None and busbw >= 0:
            found.append(Point(bytes=int(count), seconds=seconds, busbw=busbw))
    return sorted(found, key=lambda point: point.bytes)


def _steps(name: str, value: Mapping[str, Any], *, depth: int) -> Iterator[Steps]:
    """Those of the parts (``zero-stages 1``), or else the check's own: a check with parts repeats one of them."""
    parts = [
        steps
        for key, inner in value.items()
        if depth and isinstance(inner, dict)
        for steps in _steps(f"{name} {key}" if "step_seconds" in inner else name, inner, depth=depth - 1)
    ]
    seconds = numbers(value.get("step_seconds"))
    if not parts and seconds:
        parts.append(Steps(name=name, seconds=seconds, losses=numbers(value.get("losses"))))
    yield from parts


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _versions(said: Mapping[str, Any]) -> str:
    parts = [(said.get("packages"), "packages"), (said.get("hashed_files"), "files hashed")]
    return ", ".join(f"{count:,.0f} {what}" for value, what in parts if (count := number(value)) is not None)


def _loaded(said: Mapping[str, Any]) -> str:
    libraries = _mapping(said.get("libraries"))
    names = {"libcudart": "CUDA", "libcudnn": "cuDNN", "libnccl": "NCCL"}
    shown = [f"torch {said['torch']}"] if "torch" in said else []
    for stem, name in names.items():
        version = _mapping(libraries.get(stem)).get("version")
        shown += [f"{name} {version}"] if version else []
    return ", ".join(shown)


def _operator(said: Mapping[str, Any]) -> str:
    parts = []
    for key, words in (("machine_code", ""), ("ptx", " PTX")):
        listed = said.get(key)
        parts += [f"{arch}{words}" for arch in listed] if isinstance(listed, list) else []
    return ", ".join(parts)


def _gpus(said: Mapping[str, Any]) -> str:
    listed = said.get("gpus")
    names = [str(_mapping(gpu).get("name")) for gpu in listed] if isinstance(listed, list) else []
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))


def _nccl(said: Mapping[str, Any]) -> str:
    peaks = _mapping(said.get("busbw"))
    listed = {str(kind): value for kind, value in peaks.items() if number(value) is not None}
    if not listed:
        curve = _mapping(said.get("curve"))
        listed = {kind: max(p.busbw for p in found) for kind in curve if (found := _points(curve[kind]))}
    if not listed:
        return ""
    kind = "all_reduce" if "all_reduce" in listed else next(iter(listed))
    floor = number(_mapping(said.get("floor")).get("busbw"))
    return f"{kind} {listed[kind]:.1f} GB/s" + (f" (floor {floor:g})" if floor is not None else "")


def _zero(said: Mapping[str, Any]) -> str:
    runs = list(_steps("", said, depth=3))
    if not runs:
        return _first(said)
    seconds = sorted(second for run in runs for second in run.seconds)
    text = f"step {duration(seconds[len(seconds) // 2])}"
    losses = runs[0].losses
    return text + (f", loss {losses[0]:.3f} → {losses[-1]:.3f}" if losses else "")


def _first(said: Mapping[str, Any]) -> str:
    """The first few plain numbers, with their names."""
    found = [(key, value) for key in said if (value := number(said[key])) is not None]
    return ", ".join(
        f"{key.replace('_', ' ')} {value:,.0f}"
        if value.is_integer()
        else f"{key.replace('_', ' ')} {value:.4g}"
        for key, value in found[:2]
    )


_FIGURES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "versions": _versions,
    "loaded": _loaded,
    "operator-file": _operator,
    "cuda-available": _gpus,
    "nccl": _nccl,
    "zero3-fused-adam": _zero,
    "zero-stages": _zero,
    "zero-offload": _zero,
    "zero-checkpoint": _zero,
}
