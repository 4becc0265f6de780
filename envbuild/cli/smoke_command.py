"""``envbuild smoke``."""

from __future__ import annotations

from pathlib import Path

import click

from envbuild.cli.build import build
from envbuild.cli.context import Context, common
from envbuild.cli.files import check_target
from envbuild.cli.keys import own_key
from envbuild.cli.proof import ask_suite, choose_engine, verdict_path
from envbuild.engine import NAMES
from envbuild.engine.gpus import find_driver
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import Verdict, sign_verdict, write_verdict


@click.command()
@click.argument("ref")
@click.option("--gpus", type=click.IntRange(0), metavar="N", help="GPUs for the container [default: all].")
@click.option("--engine", type=click.Choice(NAMES), help="Which engine [default: the first that works].")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the verdict to FILE.")
@common
def command(context: Context, ref: str, gpus: int | None, engine: str | None, report: Path | None) -> int:
    """Run the suite in a container of the image of REF and write a verdict about it.

    Without a GPU the checks that need none are run; the result is then `candidate`, which gives no tag. A check
    that fails makes the command end with 6.
    """
    present = len(find_driver().gpus)
    if gpus is not None and gpus > present:
        raise EnvbuildError(
            "too-few-gpus",
            f"{gpus} GPUs were asked for, this machine has {present}",
            hint=f"--gpus {present}, or run it on another machine; `envbuild doctor` says what it sees",
            exit=Exit.ENGINE,
        )
    check_target(report)
    key = own_key(context)
    ready = build(context, ref)
    chosen = choose_engine(context, ready, engine)
    given = present if gpus is None else gpus
    verdict = ask_suite(context, ready, chosen, gpus=given)
    path = report or verdict_path(ready)
    write_verdict(path, sign_verdict(verdict, key))
    context.terminal.data({"path": str(path), "verdict": verdict.to_dict()}, _table(verdict, path))
    return int(Exit.GATE if verdict.result == "failed" else Exit.DONE)


def _table(verdict: Verdict, path: Path) -> str:
    """Every check with its status; what failed with expected, seen and hint."""
    lines = [f"{verdict.subject.ref}  {verdict.subject.manifest}" if verdict.subject else "here"]
    for check in verdict.checks:
        lines.append(f"  {check.status:8} {check.id:20} {check.reason}")
        if check.status == "failed":
            lines += [
                f"           expected: {check.expected}",
                f"           seen:     {check.seen}",
                f"           hint:     {check.hint}",
            ]
    lines.append(f"{verdict.result}: {verdict.why}")
    lines.append(f"verdict: {path}")
    return "\n".join(lines)
