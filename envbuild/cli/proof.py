"""The gate as commands use it: run the suite in the image, keep the verdict, give the tag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from envbuild.cli.build import Ready
from envbuild.cli.context import Context
from envbuild.cli.keys import own_key, trusted
from envbuild.cli.live import suite_progress
from envbuild.cli.terms import terms
from envbuild.engine import Engine, Gpus, ImageRef, detect, survey
from envbuild.engine.gpus import find_driver
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import (
    Subject,
    Verdict,
    make_verdict,
    promote,
    read_verdict,
    run_suite,
    sign_verdict,
    write_verdict,
)
from envbuild.lock import Lock, lock_bytes
from envbuild.oci.digest import Digest, of_bytes
from envbuild.recipe import Recipe
from envbuild.smoke.model import Expectations
from envbuild.store import Store


class Candidate(Protocol):
    """An image that the gate is asked about: one that envbuild built, or one that Docker did."""

    @property
    def recipe(self) -> Recipe:
        """What was asked for."""

    @property
    def lock(self) -> Lock:
        """What it was resolved to."""

    @property
    def store(self) -> Store:
        """Where verdicts are kept."""

    @property
    def image(self) -> ImageRef:
        """What engines run."""

    @property
    def name(self) -> str:
        """The name that a pass gives."""

    @property
    def candidate(self) -> str:
        """Its name without a verdict."""

    @property
    def subject(self) -> Subject:
        """What a verdict is about."""

    def expected(self, *, gpus_given: int | None = None) -> Expectations:
        """What the suite must find in it."""

    def give(self, context: Context, tag: str) -> None:
        """Name it wherever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Where an image stands with the gate: its names, the verdict if there is one, and why there is no tag."""

    tags: tuple[str, ...]
    promoted: bool
    verdict: Verdict | None
    path: Path | None
    why: str
    other_base: bool = False

    def to_dict(self) -> dict[str, object] | None:
        """The ``verdict`` object of ``envbuild image --json``; ``None`` where the suite was not run."""
        if self.verdict is None:
            return None
        return {
            "result": self.verdict.result,
            "why": self.verdict.why,
            "path": str(self.path),
            "gpus": [gpu.name for gpu in self.verdict.gpus],
            "driver": self.verdict.driver,
        }

    def next_step(self, ref: str) -> str:
        """Which command to run where."""
        if self.other_base:
            return (
                f"`envbuild image {ref}` makes the image that the lock names, which can be proven and tagged"
            )
        if self.verdict is not None and self.verdict.result == "failed":
            return f"`envbuild smoke {ref}` shows the failing checks with hints"
        return (
            f"on a machine with GPUs run `envbuild smoke {ref} --report verdict.json` and "
            f"`envbuild key show > pub.pem`, then here `envbuild promote {ref} --verdict verdict.json --key pub.pem`"
        )


def load_into_docker(context: Context, ready: Ready) -> str | None:
    """Load the candidate into a Docker engine, if this machine has one; the engine's name."""
    settings = context.settings
    for found in survey(ready.store, settings.environ, jobs=settings.jobs):
        if found.name == "docker" and found.engine is not None:
            found.engine.load(ready.image, context.terminal.progress)
            return found.name
    return None


def choose_engine(context: Context, ready: Candidate, name: str | None) -> Engine:
    """The engine of that name, or the first that works, with the image loaded.

    An image that the store has only unpacked goes into no Docker engine: unless one is asked for by name, or has the
    image already, the others come first.
    """
    settings = context.settings
    found = detect(name or settings.engine, ready.store, settings.environ, jobs=settings.jobs)
    chosen = next((engine for engine in found if engine.has(ready.image) or ready.image.present), found[0])
    chosen.load(ready.image, context.terminal.progress)
    return chosen


def ask_suite(context: Context, ready: Candidate, engine: Engine, *, gpus: Gpus) -> Verdict:
    """Run the suite in a container of the image; bind the report to the image."""
    given = len(find_driver().gpus) if gpus == "all" else gpus
    expectations = ready.expected(gpus_given=given)
    with ready.store.scratch("suite") as folder, suite_progress(context.terminal) as progress:
        report = run_suite(engine, ready.image, expectations, gpus=gpus, folder=folder, progress=progress)
    lock = of_bytes(lock_bytes(ready.lock))
    return make_verdict(report, ready.subject, expected=expectations, engine=engine.describe(), lock=lock)


def verdict_path(ready: Candidate) -> Path:
    """Where the store keeps the verdict about an image."""
    return ready.store.root / "verdicts" / f"{Digest(ready.subject.manifest).hex}.json"


def prove(context: Context, ready: Candidate, *, engine: Callable[[], Engine]) -> Proof:
    """Run the suite where this machine has GPUs, and give the tag if it passes.

    A verdict that the store already has about this image, that a trusted key signed and that still holds, is not
    asked for again; one that does not is left aside, which is told. ``engine`` is called only where the suite is run.
    """
    candidate = (ready.candidate,)
    path = verdict_path(ready)
    if path.exists():
        try:
            return give_tag(context, ready, read_verdict(path, trusted=trusted(context)), path)
        except EnvbuildError as refusal:
            if refusal.exit is not Exit.GATE:
                raise
            context.terminal.progress.note(f"the verdict in the store is not used: {refusal.message}")
    present = len(find_driver().gpus)
    wanted = ready.recipe.gate.gpus
    if present < wanted:
        why = "this machine has no GPU" if not present else f"this machine has {present} of {wanted} GPUs"
        return Proof(tags=candidate, promoted=False, verdict=None, path=None, why=why)
    key = own_key(context)
    verdict = ask_suite(context, ready, engine(), gpus="all")
    write_verdict(path, sign_verdict(verdict, key), key=key.public)
    if verdict.result != "passed":
        return Proof(tags=candidate, promoted=False, verdict=verdict, path=path, why=verdict.why)
    return give_tag(context, ready, verdict, path)


def give_tag(
    context: Context, ready: Candidate, verdict: Verdict, path: Path, suites: Sequence[str] = ()
) -> Proof:
    """Give the image its tag. ``suites`` are those whose verdicts count besides this envbuild's own.

    Raises:
        EnvbuildError: exit 6 when the verdict does not allow it.
    """
    tag = promote(verdict, ready.subject, terms(ready.lock, ready.expected(), suites))
    ready.give(context, tag)
    return Proof(tags=(ready.candidate, tag), promoted=True, verdict=verdict, path=path, why="")
