"""Byte code layers: every .py of the wheels, compiled by the image's own interpreter at its final path.

Each wheel gives a fragment: gzip members of tar entries without an end of archive. It depends on the wheel and the
interpreter only, so it is cached by them; a layer is the fragments of its wheels one after the other, and an end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isal import igzip

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.format import FORMAT, PYTHON, SITE
from envbuild.layers.gzip import StoredMember
from envbuild.layers.interpreter import ENV, run_reporting, tail
from envbuild.layers.refusal import damaged
from envbuild.layers.tar import END
from envbuild.layers.wheel import SplicedFile, WheelPlan, WrittenFile
from envbuild.oci import digest as digests
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.progress import Progress
from envbuild.sandbox import Bind, Command, Rootfs, Sandbox
from envbuild.store import Store

_LEVEL = 4
_UNIT = 1 << 20
"""Sources are compiled in runs of about this many bytes, a gzip member each: part of the layer's bytes."""

_START = (
    "import sys; sys.path.insert(0, '/tmp/lib'); from envbuild.layers.bytecode_driver import main; main()"
)
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """One wheel's byte code: the file ``path`` of ``size`` bytes; ``skipped`` counts sources that do not compile."""

    wheel: str
    path: Path
    size: int
    files: int
    skipped: int


def fragment_key(wheel_sha256: str, interpreter: str) -> str:
    """The cache key of a wheel's fragment; ``interpreter`` stands for the packages that the interpreter is made of."""
    value = {
        "format": FORMAT,
        "wheel": wheel_sha256,
        "interpreter": interpreter,
        "level": _LEVEL,
        "unit": _UNIT,
    }
    return digests.of_bytes(digests.canonical_json(value)).removeprefix("sha256:")


def compile_wheels(
    plans: Sequence[WheelPlan],
    *,
    base_root: Path,
    interpreter: str,
    sandbox: Sandbox,
    store: Store,
    progress: Progress,
    jobs: int,
) -> dict[str, Fragment]:
    """Compile the wheels whose fragments the store lacks.

    Args:
        plans: the wheels.
        base_root: the unpacked base, whose interpreter compiles.
        interpreter: a key that changes whenever that interpreter may (part of the cache key).
        sandbox: where it runs.
        store: keeps the fragments.
        progress: shown in files.
        jobs: processes.

    Returns:
        The fragments by the wheel's sha256.

    Raises:
        EnvbuildError: exit 5, a wheel is damaged; 7, the interpreter cannot be run.
    """
    found = {plan.sha256: _recorded(plan.sha256, interpreter, store) for plan in plans}
    missing = {plan.sha256: plan for plan in plans if found[plan.sha256] is None}
    if missing:
        with store.scratch("bytecode") as work:
            made = _compile(list(missing.values()), work, base_root, sandbox, progress, jobs)
            for sha256, (files, skipped, parts) in made.items():
                found[sha256] = _keep(sha256, interpreter, store, work, files, skipped, parts)
    return {sha256: fragment for sha256, fragment in found.items() if fragment is not None}


def _recorded(wheel: str, interpreter: str, store: Store) -> Fragment | None:
    record = store.record("bytecode", fragment_key(wheel, interpreter))
    if record is None or not store.has(str(record["sha256"]), int(str(record["size"]))):
        return None
    return _fragment(wheel, store, record)


def _fragment(wheel: str, store: Store, record: dict[str, Any]) -> Fragment:
    return Fragment(
        wheel=wheel,
        path=store.artifact(record["sha256"]),
        size=record["size"],
        files=record["files"],
        skipped=record["skipped"],
    )


def _keep(
    wheel: str, interpreter: str, store: Store, work: Path, files: int, skipped: int, parts: Sequence[Path]
) -> Fragment:
    """Join a wheel's parts and put the fragment into the store."""
    joined = work / wheel
    with joined.open("wb") as out:
        for part in parts:
            out.write(part.read_bytes())
            part.unlink()
    record: dict[str, Any] = {"size": joined.stat().st_size, "files": files, "skipped": skipped}
    record["sha256"] = store.adopt(joined)
    store.put_record("bytecode", fragment_key(wheel, interpreter), record)
    return _fragment(wheel, store, record)


def _compile(
    plans: Sequence[WheelPlan], work: Path, base_root: Path, sandbox: Sandbox, progress: Progress, jobs: int
) -> dict[str, tuple[int, int, list[Path]]]:
    """Run the driver over the wheels. Gives the number of files, of skipped ones, and the parts, by sha256."""
    out = work / "out"
    out.mkdir()
    folders = sorted({plan.wheel.parent.absolute() for plan in plans})
    units: list[dict[str, Any]] = []
    owner: dict[str, WheelPlan] = {}
    for plan in plans:
        place = f"/tmp/wheels/{folders.index(plan.wheel.parent.absolute())}/{plan.wheel.name}"  # noqa: S108
        for unit in _units(plan):
            target = f"{len(units)}.gz"
            owner[target] = plan
            units.append({"target": target, "wheel": place, **unit})
    binds = (
        Bind(source=Path(__file__).parents[1], target="/tmp/lib/envbuild"),  # noqa: S108
        Bind(source=out, target="/tmp/out", read_only=False),  # noqa: S108
        *(Bind(source=path, target=f"/tmp/wheels/{number}") for number, path in enumerate(folders)),  # noqa: S108
    )
    spec = {"jobs": jobs, "level": _LEVEL, "out": "/tmp/out", "units": sorted(units, key=_cost, reverse=True)}  # noqa: S108
    answer = _drive(spec, binds, work, base_root, sandbox, progress)
    if answer["damaged"]:
        place = answer["damaged"][0]
        name = next(owner[unit["target"]].file for unit in units if unit["wheel"] == place)
        raise damaged(name, "wheel-content", "a file in it does not inflate to what its directory says")
    failed = set(answer["failed"])
    made: dict[str, tuple[int, int, list[Path]]] = {plan.sha256: (0, 0, []) for plan in plans}
    for unit in units:
        sha256 = owner[unit["target"]].sha256
        files, skipped, parts = made[sha256]
        bad = sum(source["path"] in failed for source in unit["sources"])
        made[sha256] = (files + len(unit["sources"]) - bad, skipped + bad, [*parts, out / unit["target"]])
    return made


def _cost(unit: dict[str, Any]) -> int:
    return sum(source.get("size", 0) for source in unit["sources"])


def _drive(
    spec: dict[str, Any],
    binds: tuple[Bind, ...],
    work: Path,
    base_root: Path,
    sandbox: Sandbox,
    progress: Progress,
) -> dict[str, Any]:
    """Run the driver in the sandbox and read its answer."""
    command = Command(argv=(f"/usr/bin/{PYTHON}", "-I", "-B", "-c", _START), env=ENV, binds=binds)
    (work / "spec.json").write_text(json.dumps(spec))
    sizes = iter([len(unit["sources"]) for unit in spec["units"]])
    total = sum(len(unit["sources"]) for unit in spec["units"])
    with (
        progress.task("compile byte code", total=total, unit="files") as task,
        (work / "spec.json").open("rb") as stdin,
        (work / "answer.json").open("wb") as stdout,
    ):
        code = run_reporting(
            sandbox,
            Rootfs(lowers=(base_root,)),
            command,
            log=work / "driver.log",
            on_line=lambda line: task.advance(next(sizes, 0)) if line == b"unit\n" else None,
            stdin=stdin,
            stdout=stdout,
        )
    if code:
        raise EnvbuildError(
            "bytecode-failed",
            f"the image's {PYTHON} ended with {code} while compiling:\n{tail(work / 'driver.log')}",
            hint="if the last line speaks of memory or space, make room and run the command again",
            exit=Exit.ENGINE,
        )
    answer = json.loads((work / "answer.json").read_bytes())
    assert isinstance(answer, dict)
    return answer


def _units(plan: WheelPlan) -> Iterator[dict[str, Any]]:
    """A wheel's sources in runs of about ``_UNIT`` bytes, in the order of their paths."""
    sources = sorted((file for file in plan.files if _is_source(file.path)), key=lambda file: file.path)
    run: list[SplicedFile | WrittenFile] = []
    seen: set[str] = set()
    for file in sources:
        run.append(file)
        if sum(source.size for source in run) >= _UNIT:
            yield _unit(run, seen)
            run = []
    if run:
        yield _unit(run, seen)


def _is_source(path: str) -> bool:
    return path.startswith(f"{SITE}/") and path.endswith(".py")


def _unit(run: Sequence[SplicedFile | WrittenFile], seen: set[str]) -> dict[str, Any]:
    """The driver's value for a run; ``seen`` are the folders that earlier runs of the wheel have made."""
    folders = []
    for file in run:
        cache = file.path.rpartition("/")[0] + "/__pycache__"
        parts = cache.split("/")
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in seen:
                seen.add(folder)
                folders.append(folder)
    return {"folders": folders, "sources": [_source(file) for file in run]}


def _source(file: SplicedFile | WrittenFile) -> dict[str, Any]:
    if isinstance(file, WrittenFile):
        return {"path": file.path, "content": file.content.decode()}
    return {
        "path": file.path,
        "method": file.method,
        "offset": file.offset,
        "compressed": file.compressed,
        "size": file.size,
        "crc": file.crc,
    }


def bytecode_layer(name: str, fragments: Sequence[Fragment], layout: Layout) -> Layer:
    """Write the layer that the fragments make, in their order, into the layout.

    Raises:
        EnvbuildError: the store cannot be written.
    """
    plain = hashlib.sha256()
    end = StoredMember()
    with layout.writer() as writer:
        for fragment in fragments:
            with fragment.path.open("rb") as packed:
                for data in _pieces(packed):
                    writer.write(data)
            with igzip.open(fragment.path, "rb") as unpacked:  # type: ignore[no-untyped-call] # isal has no types here
                for data in _pieces(unpacked):
                    plain.update(data)
        for data in (*end.feed(END), *end.finish()):
            writer.write(data)
        plain.update(END)
    return Layer(name=name, digest=writer.digest, diff_id=f"sha256:{plain.hexdigest()}", size=writer.size)


def _pieces(stream: Any) -> Iterator[bytes]:
    while data := stream.read(_BUFFER):
        yield data
