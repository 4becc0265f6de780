"""Byte code layers: every .py of the wheels, compiled by the image's own interpreter at its final path.

Each wheel gives a fragment: gzip members of tar entries of files, without folders and without an end of archive. It
depends on the wheel and the interpreter only, so it is cached by them; a layer is the folders, the fragments of its
wheels one after the other, and an end. No path is in a layer twice: Docker refuses such a layer.
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
from envbuild.layers.tar import END, header
from envbuild.layers.wheel import SplicedFile, WheelPlan, WrittenFile
from envbuild.oci import digest as digests
from envbuild.oci.disk import disk_full, ran_out
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.oci.trees import regular_files
from envbuild.progress import Progress
from envbuild.sandbox import Bind, Command, Rootfs, Sandbox
from envbuild.store import Store

_LEVEL = 4
_UNIT = 1 << 20
"""Sources are compiled in runs of about this many bytes, a gzip member each: part of the layer's bytes."""

_TMP = "/tmp"  # noqa: S108 -- in the sandbox, whose /tmp is its own
_START = (
    "import sys; sys.path.insert(0, '/tmp/lib'); from envbuild.layers.bytecode_driver import main; main()"
)
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """One wheel's byte code: the file ``path`` of ``size`` bytes; ``skipped`` counts sources that do not compile.

    ``folders`` are those that its files lie in, with their parents.
    """

    wheel: str
    path: Path
    folders: tuple[str, ...]
    size: int
    files: int
    skipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The sources of one wheel that are compiled, and those that an earlier wheel of its layer has as well."""

    plan: WheelPlan
    sources: tuple[SplicedFile | WrittenFile, ...]
    without: tuple[str, ...]


def fragment_key(wheel_sha256: str, interpreter: str, without: Sequence[str] = ()) -> str:
    """The cache key of a wheel's fragment.

    ``interpreter`` stands for the packages that the interpreter is made of; ``without`` are paths left out, because
    an earlier wheel of the same layer brings the same file.
    """
    value: dict[str, object] = {
        "format": FORMAT,
        "wheel": wheel_sha256,
        "interpreter": interpreter,
        "level": _LEVEL,
        "unit": _UNIT,
        "without": list(without),
    }
    return digests.of_bytes(digests.canonical_json(value)).removeprefix("sha256:")


def compile_wheels(
    groups: Sequence[Sequence[WheelPlan]],
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
        groups: the wheels of each layer, in their order.
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
    works = {work.plan.sha256: work for group in groups for work in _works(group)}
    found = {sha256: _recorded(work, interpreter, store) for sha256, work in works.items()}
    missing = [work for sha256, work in works.items() if found[sha256] is None]
    if missing:
        with store.scratch("bytecode") as folder:
            made = _compile(missing, folder, base_root, sandbox, progress, jobs)
            for sha256, (files, skipped, parts) in made.items():
                found[sha256] = _keep(works[sha256], interpreter, store, folder, files, skipped, parts)
    return {sha256: fragment for sha256, fragment in found.items() if fragment is not None}


def _works(group: Sequence[WheelPlan]) -> Iterator[_Work]:
    """What to compile of each wheel of a layer. Several may bring one file (of one content): the first compiles it."""
    taken: set[str] = set()
    for plan in group:
        sources = sorted((file for file in plan.files if _is_source(file.path)), key=lambda file: file.path)
        without = tuple(file.path for file in sources if file.path in taken)
        own = tuple(file for file in sources if file.path not in taken)
        taken.update(file.path for file in own)
        yield _Work(plan=plan, sources=own, without=without)


def _recorded(work: _Work, interpreter: str, store: Store) -> Fragment | None:
    record = store.record("bytecode", fragment_key(work.plan.sha256, interpreter, work.without))
    if record is None or not digests.is_sha256(record.get("sha256")):
        return None
    if not all(isinstance(record.get(name), int) for name in ("size", "files", "skipped")):
        return None
    return (
        _fragment(work, store, record) if store.has(str(record["sha256"]), int(str(record["size"]))) else None
    )


def _fragment(work: _Work, store: Store, record: dict[str, Any]) -> Fragment:
    return Fragment(
        wheel=work.plan.sha256,
        path=store.artifact(record["sha256"]),
        folders=_folders(work.sources),
        size=record["size"],
        files=record["files"],
        skipped=record["skipped"],
    )


def _folders(sources: Sequence[SplicedFile | WrittenFile]) -> tuple[str, ...]:
    found = set()
    for file in sources:
        folder = file.path.rpartition("/")[0] + "/__pycache__"
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return tuple(sorted(found))


def _keep(
    work: _Work, interpreter: str, store: Store, folder: Path, files: int, skipped: int, parts: Sequence[Path]
) -> Fragment:
    """Join a wheel's parts and put the fragment into the store."""
    joined = folder / work.plan.sha256
    with joined.open("wb") as out:
        for part in parts:
            out.write(part.read_bytes())
            part.unlink()
    record: dict[str, Any] = {"size": joined.stat().st_size, "files": files, "skipped": skipped}
    record["of"] = work.plan.sha256  # garbage collection keeps the fragment as long as the wheel
    record["sha256"] = store.adopt(joined)
    store.put_record("bytecode", fragment_key(work.plan.sha256, interpreter, work.without), record)
    return _fragment(work, store, record)


def _compile(
    works: Sequence[_Work], work: Path, base_root: Path, sandbox: Sandbox, progress: Progress, jobs: int
) -> dict[str, tuple[int, int, list[Path]]]:
    """Run the driver over the wheels. Gives the number of files, of skipped ones, and the parts, by sha256."""
    out = work / "out"
    out.mkdir()
    plans = [item.plan for item in works]
    folders = sorted({plan.wheel.parent.absolute() for plan in plans})
    units: list[dict[str, Any]] = []
    owner: dict[str, WheelPlan] = {}
    for item in works:
        plan = item.plan
        place = f"{_TMP}/wheels/{folders.index(plan.wheel.parent.absolute())}/{plan.wheel.name}"
        for unit in _units(item.sources):
            target = f"{len(units)}.gz"
            owner[target] = plan
            units.append({"target": target, "wheel": place, **unit})
    binds = (
        Bind(source=Path(__file__).parents[1], target=f"{_TMP}/lib/envbuild"),
        Bind(source=out, target=f"{_TMP}/out", read_only=False),
        *(Bind(source=path, target=f"{_TMP}/wheels/{number}") for number, path in enumerate(folders)),
    )
    spec = {
        "jobs": jobs,
        "level": _LEVEL,
        "out": f"{_TMP}/out",
        "units": sorted(units, key=_cost, reverse=True),
    }
    answer = _drive(spec, binds, work, base_root, sandbox, progress)
    if answer["damaged"]:
        place = answer["damaged"][0]
        name = next(owner[unit["target"]].file for unit in units if unit["wheel"] == place)
        raise damaged(name, "wheel-content", "a file in it does not inflate to what its directory says")
    if lacking := owner.keys() - set(regular_files(out)):
        raise _failed(f"left no file {min(lacking)}")
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
    if code and ran_out(work, tail(work / "driver.log")):
        raise disk_full(work)
    if code:
        raise _failed(f"ended with {code} while compiling:\n{tail(work / 'driver.log')}")
    answer = json.loads((work / "answer.json").read_bytes())
    assert isinstance(answer, dict)
    return answer


def _failed(what: str) -> EnvbuildError:
    return EnvbuildError(
        "bytecode-failed",
        f"the image's {PYTHON} {what}",
        hint="if the last line speaks of memory or space, make room and run the command again",
        exit=Exit.ENGINE,
    )


def _units(sources: Sequence[SplicedFile | WrittenFile]) -> Iterator[dict[str, Any]]:
    """A wheel's sources in runs of about ``_UNIT`` bytes, in the order of their paths."""
    run: list[SplicedFile | WrittenFile] = []
    for file in sources:
        run.append(file)
        if sum(source.size for source in run) >= _UNIT:
            yield _unit(run)
            run = []
    if run:
        yield _unit(run)


def _is_source(path: str) -> bool:
    return path.startswith(f"{SITE}/") and path.endswith(".py")


def _unit(run: Sequence[SplicedFile | WrittenFile]) -> dict[str, Any]:
    """The driver's value for a run."""
    return {"sources": [_source(file) for file in run]}


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
    folders = b"".join(header(path, "dir", mode=0o755) for path in _union(fragments))
    begin, end = StoredMember(), StoredMember()
    with layout.writer() as writer:
        for data in (*begin.feed(folders), *begin.finish()):
            writer.write(data)
        plain.update(folders)
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


def _union(fragments: Sequence[Fragment]) -> list[str]:
    """Every folder once, parents first."""
    return sorted({folder for fragment in fragments for folder in fragment.folders})


def _pieces(stream: Any) -> Iterator[bytes]:
    while data := stream.read(_BUFFER):
        yield data
