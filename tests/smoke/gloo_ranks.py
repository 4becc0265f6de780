"""The suite's rank checks on two CPU processes over gloo: the checks' own code, processes, data and bounds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envbuild.smoke.fingerprint import HERE

DRIVER = """
import json, os, sys, time
from pathlib import Path
from smoke.checks import find
from smoke.context import Context
from smoke.links import Floor
from smoke.model import Failure, parse_expectations
from smoke.surroundings import Place
from smoke.team import Team

request = json.load(sys.stdin)
place = Place(device="cpu", backend="gloo", world=2)
with Team(folder=Path(request["folder"])) as team:
    for number, (check, options) in enumerate(request["asks"]):
        scratch = team.folder / f"scratch{number}"
        scratch.mkdir()
        context = Context(check=check, expectations=parse_expectations(request["expect"]), scratch=scratch,
                          timeout=280, deadline=time.monotonic() + 280, gpus=2, team=team)
        if "floor" in options:
            options["floor"] = Floor(**options["floor"])
        try:
            module = find(check).load()
            numbers = module.answer(context, place, **options) if hasattr(module, "answer") else module.run(context)
            found = {"numbers": numbers}
        except Failure as no:
            found = {"expected": no.expected, "seen": no.seen, "hint": no.hint, "numbers": no.numbers}
        found |= {"warnings": context.warnings, "ranks": [member.process.pid for member in team._members]}
        print("ANSWER", json.dumps(found, allow_nan=False), flush=True)
"""


@dataclass
class Answered:
    """What one check said: its numbers, or a failure's words."""

    found: dict[str, Any]

    @property
    def ranks(self) -> list[int]:
        return self.found["ranks"]

    def passed(self) -> dict[str, Any]:
        assert "seen" not in self.found, self.found
        return self.found["numbers"]

    def failed(self, *texts: str) -> dict[str, Any]:
        assert "seen" in self.found, self.found
        assert self.found["hint"]
        for text in texts:
            assert text in self.found["seen"] + self.found["expected"], (text, self.found)
        return self.found


def ask(
    folder: Path,
    python: Path,
    asks: list[tuple[str, dict[str, Any]]],
    *,
    expect: dict[str, Any],
    defect: str = "",
    environ: dict[str, str] | None = None,
) -> list[Answered]:
    """Ask checks, one after another, of the same two ranks; ``defect`` is code that every process runs at its start."""
    suite = folder / "suite"
    shutil.copytree(HERE, suite / "smoke", ignore=shutil.ignore_patterns("__pycache__"))
    ranks = folder / "ranks"
    ranks.mkdir()
    path = [str(suite)]
    if defect:
        (folder / "defect").mkdir()
        (folder / "defect/sitecustomize.py").write_text(defect)
        path.insert(0, str(folder / "defect"))
    env = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path),
        "DS_ACCELERATOR": "cpu",
        **(environ or {}),
    }
    done = subprocess.run(
        [str(python), "-P", "-s", "-c", DRIVER],
        input=json.dumps({"folder": str(ranks), "expect": expect, "asks": asks}),
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [
        Answered(found=json.loads(line.removeprefix("ANSWER ")))
        for line in done.stdout.splitlines()
        if line.startswith("ANSWER ")
    ]
    assert len(answers) == len(asks), done.stdout[-3000:] + done.stderr[-3000:]
    return answers
