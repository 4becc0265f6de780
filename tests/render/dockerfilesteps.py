"""A rendered Dockerfile taken apart, and its steps run in a folder instead of a container.

Paths below ``/tmp``, ``/run``, ``/opt``, ``/build`` and ``/etc`` become paths below the folder; everything else of a
step is run as it stands, by the shell that the Dockerfile names.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_FLAG = re.compile(r"--(network|mount)=(\S+)\s+")
_HEALTH = re.compile(r"((?:--\S+\s+)*)CMD\s+(.*)")


@dataclass(frozen=True)
class Step:
    """One ``RUN``: its mounts, whether it has a network, its script."""

    mounts: tuple[str, ...]
    online: bool
    script: str
    stage: str

    def run(self, root: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return run(self.script, root, env)


def instructions(text: str) -> list[str]:
    """A Dockerfile's instructions, each on one line, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def steps(text: str) -> list[Step]:
    """Every ``RUN`` of a Dockerfile, in order."""
    found, stage = [], ""
    for line in instructions(text):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest
        if word != "RUN":
            continue
        flags: list[tuple[str, str]] = []
        while flag := _FLAG.match(rest):
            flags.append((flag[1], flag[2]))
            rest = rest[flag.end() :]
        found.append(
            Step(
                mounts=tuple(value for name, value in flags if name == "mount"),
                online=("network", "none") not in flags,
                script=rest.strip(),
                stage=stage,
            )
        )
    return found


def step(text: str, part: str) -> Step:
    """The one step whose script has ``part`` in it."""
    (only,) = [one for one in steps(text) if part in one.script]
    return only


def health(text: str) -> str | None:
    """The script of the ``HEALTHCHECK``; ``None`` where it is ``NONE``."""
    (line,) = [line for line in instructions(text) if line.startswith("HEALTHCHECK ")]
    found = _HEALTH.fullmatch(line.partition(" ")[2])
    return found[2] if found else None


BASH = ("/bin/bash", "-euo", "pipefail", "-c")
"""What ``SHELL`` names in the Dockerfiles; an engine runs a health check's text by /bin/sh all the same."""


def run(
    script: str, root: Path, env: Mapping[str, str] | None = None, *, shell: Sequence[str] = BASH
) -> subprocess.CompletedProcess[str]:
    """Run a script by ``shell``, with its paths below ``root``."""
    placed = re.sub(r"(?<![\w.}\]])/(tmp|run|opt|build|etc)(?=[/\s;])", rf"{root}/\1", script)
    for name in ("tmp", "run", "opt", "etc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [*shell, placed],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **(env or {})},
        cwd=root,
        text=True,
        capture_output=True,
        check=False,
    )
