"""The steps that fill a claimed prefix: link, byte code, pip, and what makes two machines' prefixes the same."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

from envbuild.environment.conflicts import unreadable
from envbuild.environment.prefix import UNFINISHED, Claim, full
from envbuild.environment.process import clean_environ, working
from envbuild.environment.records import META, sources_of
from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.format import MTIME
from envbuild.lock import CondaLock, conda_lock_bytes
from envbuild.oci.disk import ran_out
from envbuild.oci.trees import walk
from envbuild.progress import Progress
from envbuild.store import Store

_TAIL = 20


def offer(claim: Claim, store: Store, files: Mapping[str, str], folder: str) -> Path:
    """A folder in the claim where files of the store (sha256 by name) have the names that they are known by."""
    target = claim.work / folder
    target.mkdir()
    for name, sha256 in files.items():
        (target / name).symlink_to(store.artifact(sha256))
    return target


def link(claim: Claim, lock: CondaLock, store: Store, progress: Progress) -> None:
    """Unpack and link every package of the lock, which the store has, with py-rattler.

    Raises:
        EnvbuildError: exit 7 where the disk is full; exit 5 where a package cannot be unpacked or linked.
    """
    files = offer(claim, store, {package.file: package.sha256 for package in lock.packages}, "files")
    given = {"prefix": str(claim.path), "files": str(files), "lock": conda_lock_bytes(lock).decode()}
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    argv = [sys.executable, "-P", "-m", "envbuild.environment.linking"]
    with (
        progress.task("unpack and link", total=len(lock.packages), unit="packages") as task,
        working(claim, argv, env={**os.environ, "PYTHONPATH": path}, merged=False) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(given).encode())
            process.stdin.close()
        told: dict[str, object] = {}
        for line in process.stdout:
            told = json.loads(line)
            task.advance(1 if "packages" in told else 0)
        if "done" not in told:
            rest = process.stderr.read().decode(errors="replace").strip()
            lost = rest or f"the process that links ended with status {process.wait()}"
            raise _link_error(str(told.get("failed", lost)), claim, lock, store)


def byte_code(claim: Claim, lock: CondaLock, jobs: int, progress: Progress) -> dict[str, list[str]]:
    """Compile the sources of packages for any platform with the environment's Python, as conda does.

    Byte code is valid by its source's mtime, which is the package's: the same on every machine.

    Returns:
        the byte code files, relative to the prefix, by package name.
    """
    sources = sources_of(lock, claim.path)
    listed = claim.work / "sources"
    listed.write_text("".join(f"{claim.path}/{name}\n" for names in sources.values() for name in names))
    argv = [
        *(f"{claim.path}/bin/python", "-m", "compileall", "-q", "-q", "-j", str(jobs)),
        *("--invalidation-mode", "timestamp", "-i", str(listed)),
    ]
    with progress.task("byte code"):
        status, output = _run(claim, argv)
    if status not in (0, 1):  # 1: a source that is for another Python; it stays as it is
        raise _failed("byte-code-failed", "the environment's Python does not compile", status, output, claim)
    return {
        package: [made for name in names if (claim.path / (made := cache_from_source(name))).exists()]
        for package, names in sources.items()
    }


def pip_install(claim: Claim, lock: CondaLock, store: Store, progress: Progress) -> None:
    """Install what the lock gives to pip (DeepSpeed), whose sources the store has; pip asks no index.

    No operator is compiled, and no GPU of this machine is seen, so that the same is installed everywhere.

    Raises:
        EnvbuildError: exit 7 where the disk is full; exit 5 where pip fails, with what it said.
    """
    if not lock.pip:
        return
    files = offer(claim, store, {item.basename: item.sha256 for item in lock.pip}, "sources-of-pip")
    wanted = claim.work / "requirements.txt"
    wanted.write_text("".join(f"{i.name}=={i.version} --hash=sha256:{i.sha256}\n" for i in lock.pip))
    (claim.work / "tmp").mkdir()
    argv = [
        *(f"{claim.path}/bin/python", "-m", "pip", "--isolated", "--no-input", "--disable-pip-version-check"),
        *("install", "--require-hashes", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--no-index"),
        *(
            "--find-links",
            str(files),
            "--no-warn-script-location",
            "--progress-bar",
            "off",
            "-r",
            str(wanted),
        ),
    ]
    env = {
        "PIP_CONFIG_FILE": os.devnull,
        "SOURCE_DATE_EPOCH": str(MTIME),
        "DS_ACCELERATOR": "cuda",
        "DS_BUILD_OPS": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "TMPDIR": str(claim.work / "tmp"),
        "GIT_CEILING_DIRECTORIES": str(
            claim.work
        ),  # DeepSpeed writes down the commit of a repository around it
    }
    names = ", ".join(f"{item.name} {item.version}" for item in lock.pip)
    with progress.task(f"pip install {names}"):
        status, output = _run(claim, argv, env)
    if status:
        raise _failed("pip-failed", f"pip could not install {names}", status, output, claim)


def seal(claim: Claim, from_packages: set[str]) -> None:
    """Give everything that was made here the modes and times that it has on every machine.

    Args:
        claim: the prefix.
        from_packages: files whose times are the packages' own; all others get one constant time.
    """
    (claim.path / "CACHEDIR.TAG").unlink(
        missing_ok=True
    )  # py-rattler's; tools for backups would leave all out
    root = str(claim.path)
    _remove_empty(f"{root}/__clobbers__")
    for relative, status in walk(root, leave=UNFINISHED):
        path = f"{root}/{relative}"
        if not stat.S_ISLNK(status.st_mode):
            _set_mode(path, status, at_least=0o644 if relative.rpartition("/")[0] == META else 0)
        if relative not in from_packages:
            os.utime(path, (MTIME, MTIME), follow_symlinks=False)


def _remove_empty(top: str) -> None:
    """Remove the empty folders: one that holds a file that lost its path to another package's stays."""
    if not os.path.isdir(top) or os.path.islink(top):  # noqa: PTH112, PTH114  # walk gives texts
        return
    folders = [f"{top}/{path}" for path, found in walk(top) if stat.S_ISDIR(found.st_mode)]
    for folder in reversed([top, *folders]):
        with suppress(OSError):
            os.rmdir(folder)  # noqa: PTH106


def close(claim: Claim) -> None:
    """The last step: the prefix is no longer unfinished."""
    if claim.is_new:
        claim.path.chmod(0o755)
    claim.finish()
    os.utime(claim.path, (MTIME, MTIME))


def _set_mode(path: str, status: os.stat_result, *, at_least: int) -> None:
    """Nobody but the owner writes."""
    mode = stat.S_IMODE(status.st_mode)
    wanted = (mode | at_least) & ~0o022
    if mode != wanted:
        os.chmod(path, wanted)  # noqa: PTH101  # a hundred thousand of them


def _run(claim: Claim, argv: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, list[str]]:
    """Run a program of the environment; its status and what it printed."""
    started = {**clean_environ(claim, os.environ), **(env or {})}
    with working(claim, argv, env=started, cwd=str(claim.work), merged=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        output = process.stdout.read().decode(errors="replace")
        return process.wait(), output.splitlines()


def _link_error(failed: str, claim: Claim, lock: CondaLock, store: Store) -> EnvbuildError:
    if ran_out(claim.path, failed):
        return full(claim.path)
    name = failed.splitlines()[0].rsplit(" ", 1)[-1]
    package = next((package for package in lock.packages if package.file == name), None)
    if package is not None:
        return unreadable(package, store, failed)
    return EnvbuildError(
        "link-failed", f"the environment could not be linked: {failed}", exit=Exit.VERIFY,
        hint="The files are what the lock names. `envbuild doctor` looks at the disk; another --prefix may help; "
        "`envbuild lock REF --only conda --upgrade NAME` takes another build of the package.",
    )  # fmt: skip


def _failed(id: str, what: str, status: int, output: Sequence[str], claim: Claim) -> EnvbuildError:
    if ran_out(claim.path, "\n".join(output)):
        return full(claim.path)
    told = "\n  ".join(output[-_TAIL:]) or "nothing"
    return EnvbuildError(
        id, f"{what} (status {status}):\n  {told}", exit=Exit.VERIFY,
        hint="What was made is removed. If it is this machine's doing (memory, a mount with noexec), try another "
        "--prefix; else the lock's packages do not fit together: `envbuild lock REF --only conda`.",
    )  # fmt: skip
