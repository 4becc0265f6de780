"""The verdict as one HTML page that needs nothing else: no network, no scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from envbuild.gate.figures import Steps, bandwidth, duration, key_number, pins, training
from envbuild.gate.keys import PublicKey
from envbuild.gate.plot import draw
from envbuild.gate.report import CheckRecord
from envbuild.gate.verdict import Verdict
from envbuild.plain import visible

TEMPLATES = Path(__file__).with_name("templates")
_BAR = 22.0
"""Height of the bars of step times, in CSS pixels."""


def page(verdict: Verdict, keys: Sequence[PublicKey]) -> str:
    """Write the page: the answer first, then what it is about, what failed, and the numbers. The same input gives the
    same text.

    Args:
        verdict: what is shown; none of its texts is trusted to be harmless.
        keys: whose signature was checked.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_visible,
    )
    measured = bandwidth(verdict)
    return environment.get_template("verdict.html.j2").render(
        verdict=verdict,
        keys=keys,
        heading=_HEADINGS[verdict.result],
        gpus=_gpus(verdict),
        failed=[check for check in verdict.checks if check.status == "failed"],
        warnings=[(check.id, text) for check in verdict.checks for text in check.warnings],
        pins=pins(verdict),
        measured=measured,
        plots=[]
        if measured is None
        else [
            ("wide", draw(measured, width=880, height=340, x_ticks=10)),
            ("narrow", draw(measured, width=360, height=300, x_ticks=5)),
        ],
        training=[_row(steps) for steps in training(verdict)],
        checks=[(check, key_number(check), _pretty(check)) for check in verdict.checks],
        host=_host(verdict),
        packages=sorted(verdict.expected.packages.items()),
    )


def _visible(value: object) -> object:
    """Texts with what turns them around or hides in them written out; before they are escaped for HTML."""
    return visible(value, lines=True) if type(value) is str else value


_HEADINGS = {"passed": "Passed", "candidate": "Candidate", "failed": "Failed"}


def _gpus(verdict: Verdict) -> str:
    names = [gpu.name for gpu in verdict.gpus]
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) or "none"


def _row(steps: Steps) -> Mapping[str, object]:
    """One training run: its bars (x, height, title) and the figures beside them."""
    highest = max(steps.seconds) or 1.0
    return {
        "name": steps.name,
        "count": len(steps.seconds),
        "median": duration(median(steps.seconds)),
        "slowest": duration(max(steps.seconds)),
        "losses": [f"{loss:.4f}" for loss in steps.losses],
        "bars": [
            (
                index * 9,
                round(max(1.0, _BAR * seconds / highest), 1),
                f"step {index + 1}: {duration(seconds)}",
            )
            for index, seconds in enumerate(steps.seconds)
        ],
    }


def _pretty(check: CheckRecord) -> str:
    return json.dumps(check.numbers, indent=1, ensure_ascii=False) if check.numbers else ""


def _host(verdict: Verdict) -> list[tuple[str, str]]:
    host = verdict.host
    return [
        ("system", host.system or "unknown"),
        ("kernel", f"{host.kernel} {host.machine}"),
        ("C library", host.libc),
        ("Python", f"{host.python} ({host.executable})"),
        ("processors", str(host.cpus)),
        ("memory", f"{host.memory / 1e9:.1f} GB"),
        ("shared memory", "unknown" if host.shm is None else f"{host.shm / 1e9:.1f} GB"),
        ("GPUs that the kernel shows", str(host.gpus)),
    ]
