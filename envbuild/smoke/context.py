"""What a check is given, and how it starts its ranks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .causes import hint_of
from .model import Expectations, Failure
from .team import Job, Team

_PYTHON = (sys.executable, "-P", "-s", "-m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One check's inputs. ``gpus`` is the number of GPUs when the suite started: what the kernel showed to this
    container (``nodes``), or what the host gave it if that is more.

    ``scratch`` is a folder of the check's own, removed afterwards; ``options`` what a check tells its ranks.
    ``timeout`` is in seconds, and ``deadline`` the time when it is up, on the monotonic clock, which all processes of
    a machine share. ``team`` are the ranks that the check shares with others of its group. ``warnings`` is where
    :meth:`warn` puts what it is told.
    """

    check: str
    expectations: Expectations
    scratch: Path
    timeout: float
    deadline: float
    gpus: int
    options: Mapping[str, Any] = field(default_factory=dict)
    team: Team | None = None
    warnings: list[str] = field(default_factory=list)
    nodes: int = 0

    def warn(self, text: str) -> None:
        """Say something that a person should know and that does not fail the check, in one line, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    @property
    def shared(self) -> Path:
        """A folder that is there as long as the ranks are: the group's, or ``scratch`` for a check in no group."""
        return self.scratch if self.team is None else self.team.folder

    @property
    def rank(self) -> int:
        """This process's rank."""
        return int(os.environ["RANK"])

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return int(os.environ["WORLD_SIZE"])


def program(role: str, check: str, job: Path) -> list[str]:
    """The command line of a check or rank process: no user site, no current folder on ``sys.path``."""
    return [*_PYTHON, f"{__package__}.child", role, check, str(job)]


def write_job(path: Path, context: Context, *, result: Path) -> None:
    """Write what :mod:`.child` reads."""
    path.write_text(
        json.dumps(
            {
                "parent": os.getpid(),
                "expectations": context.expectations.to_dict(),
                "scratch": str(context.scratch),
                "timeout": context.timeout,
                "deadline": context.deadline,
                "gpus": context.gpus,
                "nodes": context.nodes,
                "options": dict(context.options),
                "result": str(result),
            }
        )
    )


def read_result(path: Path) -> dict[str, Any] | None:
    """The answer that a child left, or ``None`` when it left none that can be read."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and "status" in value else None


def run_ranks(
    context: Context,
    world: int,
    *,
    environ: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Have one process a rank answer this check's ``rank``, and return their numbers in rank order.

    The ranks are those of the check's group, where it has one, else they are started for it and end with it. They
    stay in the check's process group, so that its time limit ends them too. What they warn of becomes a warning of
    the check.

    Args:
        context: the check's own.
        world: number of ranks.
        environ: the environment of every rank; RANK, WORLD_SIZE and their kin are added.
        options: what the ranks read as ``context.options``; ``rendezvous``, a path to meet by, is added.

    Raises:
        Failure: a rank crashed or said no.
    """
    if context.team is not None:
        return _ask(context, context.team, world, environ=environ, options=options or {})
    with Team(folder=context.scratch) as team:
        numbers = _ask(context, team, world, environ=environ, options=options or {})
        bad = team.close()
    if bad is not None:
        raise _gone(team, bad)
    return numbers


def _ask(
    context: Context, team: Team, world: int, *, environ: Mapping[str, str], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    team.ready(world, environ=environ, argv=[*_PYTHON, f"{__package__}.member", "rank"])
    job_context = Context(
        check=context.check,
        expectations=context.expectations,
        scratch=context.scratch,
        timeout=context.timeout,
        deadline=context.deadline,
        gpus=context.gpus,
        options={"rendezvous": str(team.rendezvous), **options},
    )
    jobs = [
        Job(
            check=context.check,
            path=context.scratch / f"rank{rank}.job",
            log=context.scratch / f"rank{rank}.log",
            result=context.scratch / f"rank{rank}.json",
        )
        for rank in range(world)
    ]
    for job in jobs:
        job.result.unlink(missing_ok=True)
        write_job(job.path, job_context, result=job.result)
    first = team.ask(jobs)
    found = [read_result(job.result) for job in jobs]
    for rank, answer in enumerate(found):
        for text in answer.get("warnings", []) if answer else []:
            context.warn(f"rank {rank}: {text}")
    order = sorted(range(world), key=lambda rank: rank != first)
    answers = {rank: _judge(team, rank, found[rank]) for rank in order}
    return [answers[rank] for rank in range(world)]


def _gone(team: Team, rank: int) -> Failure:
    seen = team.describe(rank)
    return Failure(
        expected=f"rank {rank} to finish",
        seen=seen,
        hint=hint_of(seen, "the last lines of that rank's output say what went wrong"),
    )


def _judge(team: Team, rank: int, result: dict[str, Any] | None) -> dict[str, Any]:
    if result is None:
        raise _gone(team, rank)
    if result["status"] != "passed":
        raise Failure(
            expected=str(result.get("expected", f"rank {rank} to run")),
            seen=f"rank {rank}: {result.get('seen')}",
            hint=str(result.get("hint", "run the suite on a machine whose GPUs are free")),
            numbers=result.get("numbers", {}),
        )
    numbers: dict[str, Any] = result["numbers"]
    return numbers
