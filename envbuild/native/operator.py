"""Build DeepSpeed's wheel with its compiled operators: in the sandbox, without network, at fixed paths."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact, Lock
from envbuild.native import inside
from envbuild.native.archives import MTIME, unpack_sdist, unpack_wheel
from envbuild.native.inputs import Inputs, inputs_of
from envbuild.native.toolchain import lay_out
from envbuild.native.verify import check_wheel
from envbuild.oci.digest import is_sha256
from envbuild.oci.disk import disk_full, guarded, ran_out
from envbuild.oci.trees import regular_files
from envbuild.progress import Progress
from envbuild.sandbox import Bind, Command, Rootfs, Sandbox
from envbuild.store import Store

KIND = "native"
"""The store's kind of records: key of the inputs → the wheel; failed logs lie beside them."""

LOG_LINES = 25
"""How much of a failed build's log the error shows."""

VENV = "/opt/venv"
"""Where the image's virtual environment lies, and the build's: paths get into the module, so they are the same."""

_SCRIPT = Path(inside.__file__)
_TIMEOUT = 7200.0


def build_operator(
    lock: Lock, *, base_root: Path, sandbox: Sandbox, store: Store, progress: Progress, jobs: int
) -> Artifact:
    """The wheel of the lock's DeepSpeed with the recipe's operators compiled, from the store if it was built before.

    The wheel's bytes depend on the inputs that its key names and on nothing else: not on ``jobs``, the folder,
    the user, the date or the machine. All inputs must be in the store.

    Args:
        lock: names the inputs.
        base_root: the unpacked base layer; it has the compiler, Python's headers and binutils.
        sandbox: where it is compiled.
        store: has the inputs; takes the wheel.
        progress: sees the steps.
        jobs: processes at once.

    Returns:
        The wheel, adopted by the store; ``index`` is ``built``.

    Raises:
        EnvbuildError: exit 3, the lock lacks an input; exit 5, an input is damaged or what came out is not the
            CUDA operator for every architecture; exit 7, it does not compile (the log is kept and named).
    """
    inputs = inputs_of(lock)
    key = operator_key(lock)
    with store.lock(f"{KIND}-{key[:16]}", progress):
        known = _known(store, key, inputs.source)
        return (
            known
            if known is not None
            else _build(lock, inputs, key, base_root, sandbox, store, progress, jobs)
        )


def operator_key(lock: Lock) -> str:
    """64 hex digits that name what the lock's operators are compiled from, and so what comes out.

    Raises:
        EnvbuildError: exit 3, the lock lacks an input.
    """
    return inputs_of(lock).key(_SCRIPT.read_bytes())


def take_operator(lock: Lock, file: str, sha256: str, *, store: Store) -> Artifact:
    """Take a wheel as the lock's that was built elsewhere from the same inputs. It lies in the store.

    Args:
        lock: names the inputs.
        file: the wheel's file name.
        sha256: its hash, 64 hex digits.
        store: has it; remembers it for the next build.

    Raises:
        EnvbuildError: exit 5, it is not the CUDA operator for every architecture of the recipe.
    """
    inputs = inputs_of(lock)
    path = store.artifact(sha256)
    check_wheel(path, operators=inputs.operators, architectures=inputs.architectures)
    size = path.stat().st_size
    store.put_record(KIND, operator_key(lock), {"file": file, "sha256": sha256, "size": size})
    return _artifact(inputs.source, file=file, sha256=sha256, size=size)


def _build(
    lock: Lock,
    inputs: Inputs,
    key: str,
    base_root: Path,
    sandbox: Sandbox,
    store: Store,
    progress: Progress,
    jobs: int,
) -> Artifact:
    log = store.root / "cache" / KIND / f"{key}.log"
    with store.scratch(KIND) as scratch:
        build, venv = scratch / "build", scratch / "venv"
        with guarded(store.root):
            log.parent.mkdir(parents=True, exist_ok=True)
            _lay_out(inputs, _python(lock), store=store, build=build, venv=venv, progress=progress, jobs=jobs)
        what = f"compile {', '.join(inputs.operators)} of DeepSpeed {inputs.source.version}"
        with (
            progress.task(f"{what} for {', '.join(inputs.architectures)}", unit="s") as task,
            _ticks(task.advance),
        ):
            wheel = _compile(inputs, build, venv, log=log, base_root=base_root, sandbox=sandbox, jobs=jobs)
        try:
            check_wheel(wheel, operators=inputs.operators, architectures=inputs.architectures)
        except EnvbuildError as error:
            error.hint += f"; the build's log is {log}"
            raise
        log.unlink()
        return _adopt(wheel, inputs.source, key, store)


def _compile(
    inputs: Inputs, build: Path, venv: Path, *, log: Path, base_root: Path, sandbox: Sandbox, jobs: int
) -> Path:
    """Run the build in the sandbox; returns the wheel."""
    command = Command(
        argv=("python", "/build/inside.py", "/build/src", "/build/out"),
        env=environment(inputs, jobs),
        cwd="/build",
        binds=(
            Bind(source=build, target="/build", read_only=False),
            Bind(source=venv, target=VENV),
        ),
    )
    with log.open("wb") as output:
        status = sandbox.run(
            Rootfs(lowers=(base_root,)),
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=_TIMEOUT,
        )
    wheels = [build / "out" / name for name in regular_files(build / "out") if name.endswith(".whl")]
    if status or len(wheels) != 1:
        raise _failed(status, log, inputs)
    return wheels[0]


def environment(inputs: Inputs, jobs: int) -> dict[str, str]:
    """The build's whole environment.

    ``DS_BUILD_*`` names what is compiled and nothing else is; without ``DS_ACCELERATOR`` a machine without GPUs
    would get the CPU operator under the same name; the architectures are in TORCH_CUDA_ARCH_LIST's words.
    ``jobs`` decides the speed only.
    """
    return {
        **{f"DS_BUILD_{name.upper()}": "1" for name in inputs.operators},
        "CUDA_HOME": "/build/cuda",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cuda",
        "HOME": "/build/home",
        "LC_ALL": "C.UTF-8",
        "LDFLAGS": "-Wl,--build-id=none",
        "MAX_JOBS": str(max(1, jobs)),
        "NVCC_APPEND_FLAGS": f"--threads {max(1, jobs)}",
        "PATH": f"{VENV}/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": str(MTIME),
        "TMPDIR": "/build/tmp",
        "TORCH_CUDA_ARCH_LIST": ";".join(inputs.architectures),
        "TZ": "UTC",
    }


def _lay_out(
    inputs: Inputs, python: str, *, store: Store, build: Path, venv: Path, progress: Progress, jobs: int
) -> None:
    """Write the two folders that the sandbox sees: /build and the virtual environment."""
    site = venv / "lib" / python / "site-packages"
    for folder in (build / "out", build / "tmp", build / "home", venv / "bin", site):
        folder.mkdir(parents=True)
    (build / "inside.py").write_bytes(_SCRIPT.read_bytes())
    (venv / "bin" / "python").symlink_to(f"/usr/bin/{python}")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    unpack_sdist(inputs.source.basename, store.artifact(inputs.source.sha256), build / "src")
    tools = {name: (tool, store.artifact(tool.sha256)) for name, tool in inputs.tools.items()}
    stop = threading.Event()
    with (
        progress.task("unpack torch and the CUDA compiler") as task,
        ThreadPoolExecutor(max(1, jobs)) as pool,
    ):

        def advance(amount: int) -> None:
            if stop.is_set():
                raise CancelledError
            task.advance(amount)

        futures = [pool.submit(lay_out, inputs.pieces, tools, build / "cuda")]
        for wheel in sorted(inputs.site, key=lambda wheel: -wheel.size):
            path = store.artifact(wheel.sha256)
            futures.append(pool.submit(unpack_wheel, wheel.basename, path, site, advance))
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _known(store: Store, key: str, source: Artifact) -> Artifact | None:
    """The wheel that was built from the same inputs, if the store still has it."""
    record = store.record(KIND, key)
    if record is None:
        return None
    file, sha256, size = record.get("file"), record.get("sha256"), record.get("size")
    if not (isinstance(file, str) and is_sha256(sha256) and isinstance(size, int)):
        return None
    if not store.has(str(sha256), size):
        return None
    return _artifact(source, file=file, sha256=str(sha256), size=size)


def _adopt(wheel: Path, source: Artifact, key: str, store: Store) -> Artifact:
    file, size = wheel.name, wheel.stat().st_size
    artifact = _artifact(source, file=file, sha256=store.adopt(wheel), size=size)
    store.put_record(KIND, key, {"file": file, "sha256": artifact.sha256, "size": size})
    return artifact


def _artifact(source: Artifact, *, file: str, sha256: str, size: int) -> Artifact:
    return replace(source, kind="wheel", file=file, sha256=sha256, size=size, index="built", uploaded=None)


def _python(lock: Lock) -> str:
    """The interpreter's name in the base."""
    python = lock.recipe.get("python")
    version = python.get("version") if isinstance(python, dict) else None
    return f"python{version or '3.11'}"


def _failed(status: int, log: Path, inputs: Inputs) -> EnvbuildError:
    """What the log's last lines say, and where the rest is."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024), os.SEEK_SET)
        lines = file.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
    tail = "\n".join(f"  | {line}" for line in lines) or "  | (it said nothing)"
    if ran_out(log.parent, tail):
        return disk_full(log.parent)
    return EnvbuildError(
        "operator-build-failed",
        f"DeepSpeed {inputs.source.version} does not compile (status {status}); the log ends with\n{tail}",
        where=str(log),
        hint=f"read the whole log: `less {log}`; a status of 137 means that memory ran out: use fewer --jobs",
        exit=Exit.ENGINE,
    )


@contextmanager
def _ticks(advance: Callable[[int], None]) -> Iterator[None]:
    """Report a second every second: compilers say nothing while they work."""
    done = threading.Event()

    def tick() -> None:
        while not done.wait(1.0):
            advance(1)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
