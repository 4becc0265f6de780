"""The command line of envbuild-doctor."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from . import gpus, limits, places, variables
from .model import Finding, Host, State, entries, here, text_of

Look = Callable[[Host], Finding | None]

LOOKS: tuple[tuple[str, Look], ...] = (
    ("driver", gpus.driver),
    ("gpus", gpus.gpus),
    ("cuda", gpus.cuda),
    ("architecture", gpus.architecture),
    ("gpu-health", gpus.health),
    ("peer-to-peer", gpus.peers),
    ("shared-memory", limits.shared_memory),
    ("locked-memory", limits.locked_memory),
    ("open-files", limits.open_files),
    ("ipc", limits.ipc),
    ("processors", limits.processors),
    ("memory", limits.memory),
    ("processes", limits.processes),
    ("capabilities", limits.capabilities),
    ("variables", variables.variables),
    ("disk", places.disk),
    ("network", places.network),
    ("torch", places.environment),
)
"""What is looked at, in the order of the report. ``None``: nothing to say of it here."""

VENV_PYTHON = "opt/venv/bin/python"
_PRINTED = {State.GOOD: "ok", State.WARNING: "warning", State.PROBLEM: "PROBLEM", State.UNKNOWN: "?"}
_COLOUR = {State.GOOD: "32", State.WARNING: "33", State.PROBLEM: "31", State.UNKNOWN: "33"}

HELP = """\
Says whether this host, and the way this container was started, fits the image: driver, GPUs, architecture, shared
memory, limits, variables; and what to add to `docker run`. It changes nothing.

exit status: 0 it fits (there may be warnings), 1 it does not fit, 2 wrong usage
"""


def main(arguments: Sequence[str]) -> int:
    """Look, print, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="envbuild-doctor", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--no-torch", action="store_true", help="do not import torch: faster, for a container's start"
    )
    options = parser.parse_args(arguments)
    host = ask(here(), torch=not options.no_torch)
    findings = look(host)
    if options.json:
        print(json.dumps(report(host, findings), indent=2))
    else:
        sys.stdout.write(page(host, findings, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return 0 if fits(findings) else 1


def ask(host: Host, *, torch: bool) -> Host:
    """Ask NVML, CUDA and torch, each in a process of its own."""
    folder = Path(__file__).parent
    isolated = [sys.executable, "-BIS", str(folder / "ask_driver.py")]
    nvml = answer_of([*isolated, "nvml"], seconds=30)
    gpus_here = bool(host.gpus() or entries(nvml, "gpus"))
    cuda = answer_of([*isolated, "cuda"], seconds=60) if gpus_here else {}
    python = host.root / VENV_PYTHON
    asked: dict[str, object] = {}
    if torch and python.exists():
        asked = answer_of([str(python), "-B", str(folder / "ask_torch.py")], seconds=120)
    return replace(host, nvml=nvml, cuda=cuda, torch=asked)


def answer_of(command: Sequence[str], *, seconds: float) -> dict[str, object]:
    """The JSON that a process prints last; ``{"error": …}`` where it does not, is killed, or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {seconds:g} s"}
    except OSError as error:
        return {"error": str(error)}
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines()[-1:] or [f"ended with status {done.returncode}"]
        return {"error": said[0]}
    return answer if isinstance(answer, dict) else {"error": "an answer that is no object"}


def look(host: Host) -> list[Finding]:
    """Every finding. A look that fails says so in its row and takes nothing else with it."""
    findings = []
    for name, ask_for in LOOKS:
        try:
            found = ask_for(host)
        except Exception as error:  # what a broken host raises cannot be foreseen, and the other rows matter
            found = Finding(
                id=name, state=State.UNKNOWN, detail=f"could not look: {type(error).__name__}: {error}"
            )
        if found is not None:
            findings.append(found)
    return findings


def fits(findings: Sequence[Finding]) -> bool:
    """Whether nothing is a problem."""
    return all(found.state is not State.PROBLEM for found in findings)


def flags_of(findings: Sequence[Finding]) -> list[str]:
    """What to add to ``docker run``, each once."""
    return list(dict.fromkeys(flag for found in findings for flag in found.flags))


def report(host: Host, findings: Sequence[Finding]) -> dict[str, object]:
    """What ``--json`` prints: documented in docs/reference/programs.md."""
    return {
        "schema": 1,
        "fits": fits(findings),
        "image": dict(host.image),
        "flags": flags_of(findings),
        "findings": [found.to_dict() for found in findings],
    }


def page(host: Host, findings: Sequence[Finding], *, colour: bool) -> str:
    """The same for people."""
    lines = [f"{text_of(host.image, 'ref') or 'an image without /etc/envbuild/image.json'} on this host", ""]
    wide = max((len(found.id) for found in findings), default=0)
    for found in findings:
        state = f"{_PRINTED[found.state]:<7}"
        shown = f"\x1b[{_COLOUR[found.state]}m{state}\x1b[0m" if colour else state
        lines.append(f"{shown}  {found.id:<{wide}}  {found.detail}")
        if found.fix:
            lines.append(f"{'':<{9 + wide}}  -> {found.fix}")
    problems = sum(found.state is State.PROBLEM for found in findings)
    others = sum(found.state in (State.WARNING, State.UNKNOWN) for found in findings)
    verdict = "fits" if not problems else f"does not fit: {problems} problem{'s' * (problems > 1)}"
    lines += ["", verdict + (f", {others} warning{'s' * (others > 1)}" if others else "")]
    flags = flags_of(findings)
    if flags:
        lines.append(f"add to docker run: {' '.join(flags)}")
    return "\n".join(lines) + "\n"
