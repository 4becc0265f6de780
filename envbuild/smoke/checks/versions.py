"""``versions``: installed = locked, and the files that matter are the ones that were packed."""

from __future__ import annotations

import os
from typing import Any

from ..context import Context
from ..installed import audit, by_name
from ..model import Failure

SHOWN = 8


def run(context: Context) -> dict[str, Any]:
    """Compare every package's version, then hash the files of torch, the CUDA libraries and the operator."""
    expectations = context.expectations
    installed = by_name()
    wrong = []
    for name, version in sorted(expectations.packages.items()):
        seen = [str(found.version) for found in installed.get(name, [])]
        if seen != [version] and (expectations.complete or seen[:1] != [version]):
            wrong.append(
                f"{name} {version}: {'installed as ' + ' and '.join(seen) if seen else 'not installed'}"
            )
    if expectations.complete:
        wrong += [
            f"{name} {found[0].version}: installed, not in the lock"
            for name, found in sorted(installed.items())
            if name not in expectations.packages
        ]
    if wrong:
        raise Failure(
            expected=f"the {len(expectations.packages)} locked packages, each once, and no other",
            seen=_list(wrong),
            hint="something was installed on top of the image, or the image is of another lock: rebuild it",
            numbers={"packages": len(expectations.packages), "wrong": len(wrong)},
        )
    chosen = [installed[name][0] for name in expectations.hashed]
    report = audit(chosen, threads=min(32, len(os.sched_getaffinity(0)) + 2))
    numbers = {
        "packages": len(expectations.packages),
        "hashed_packages": len(chosen),
        "hashed_files": report.files,
        "hashed_bytes": report.size,
    }
    if report.problems:
        raise Failure(
            expected=f"{report.files} files with the hashes of their RECORD",
            seen=_list(list(report.problems)),
            hint="a file was changed or lost after it was installed: pull or rebuild the image",
            numbers={**numbers, "wrong": len(report.problems)},
        )
    return numbers


def _list(lines: list[str]) -> str:
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more])
