"""The gate as commands use it: run the suite in the image, keep the verdict, give the tag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envbuild.cli.build import Ready
from envbuild.cli.context import Context
from envbuild.cli.keys import own_key, trusted
from envbuild.cli.live import suite_progress
from envbuild.engine import Engine, Gpus, detect, survey
from envbuild.engine.gpus import find_driver
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import (
    Verdict,
    expect,
    make_verdict,
    promote,
    read_verdict,
    run_suite,
    sign_verdict,
    subject_of,
    write_verdict,
)
from envbuild.lock import lock_bytes
from envbuild.oci.digest import of_bytes


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


def choose_engine(context: Context, ready: Ready, name: str | None) -> Engine:
    """The engine of that name, or the first that works, with the image loaded.

    An image that the store has only unpacked goes into no Docker engine: unless one is asked for by name, or has the
    image already, the others come first.
    """
    settings = context.settings
    found = detect(name or settings.engine, ready.store, settings.environ, jobs=settings.jobs)
    chosen = next((engine for engine in found if engine.has(ready.image) or ready.image.present), found[0])
    chosen.load(ready.image, context.terminal.progress)
    return chosen


def ask_suite(context: Context, ready: Ready, engine: Engine, *, gpus: Gpus) -> Verdict:
    """Run the suite in a container of the image; bind the report to the image."""
    given = len(find_driver().gpus) if gpus == "all" else gpus
    expectations = expect(ready.recipe, ready.lock, gpus_given=given)
    with ready.store.scratch("suite") as folder, suite_progress(context.terminal) as progress:
        report = run_suite(engine, ready.image, expectations, gpus=gpus, folder=folder, progress=progress)
    subject = subject_of(str(ready.recipe.ref), ready.built.image)
    lock = of_bytes(lock_bytes(ready.lock))
    return make_verdict(report, subject, expected=expectations, engine=engine.describe(), lock=lock)


def verdict_path(ready: Ready) -> Path:
    """Where the store keeps the verdict about an image."""
    return ready.store.root / "verdicts" / f"{ready.built.image.digest.removeprefix('sha256:')}.json"


def prove(context: Context, ready: Ready, *, engine: str | None) -> Proof:
    """Run the suite where this machine has GPUs, and give the tag if it passes.

    A verdict that the store already has about this image, that a trusted key signed and that still holds, is not
    asked for again; one that does not is left aside, which is told.
    """
    candidate = (ready.recipe.ref.candidate,)
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
    chosen = choose_engine(context, ready, engine)
    verdict = ask_suite(context, ready, chosen, gpus="all")
    write_verdict(path, sign_verdict(verdict, key))
    if verdict.result != "passed":
        return Proof(tags=candidate, promoted=False, verdict=verdict, path=path, why=verdict.why)
    return give_tag(context, ready, verdict, path)


def give_tag(context: Context, ready: Ready, verdict: Verdict, path: Path) -> Proof:
    """Give the image its tag, here and in a Docker engine that has it.

    Raises:
        EnvbuildError: exit 6 when the verdict does not allow it.
    """
    subject = subject_of(str(ready.recipe.ref), ready.built.image)
    tag = promote(verdict, subject, expected=expect(ready.recipe, ready.lock))
    ready.store.layout.tag(tag, ready.built.image.manifest)
    settings = context.settings
    for found in survey(ready.store, settings.environ, jobs=settings.jobs):
        if found.name == "docker" and found.engine is not None and found.engine.has(ready.image):
            found.engine.tag(ready.image, [tag])
    return Proof(tags=(ready.recipe.ref.candidate, tag), promoted=True, verdict=verdict, path=path, why="")
