"""The folder that an environment is made in: claimed, so that a half-made one is known as such, or given back."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.disk import disk_full, is_full, pauses
from envbuild.oci.trees import remove_tree
from envbuild.progress import Progress

UNFINISHED = ".envbuild-unfinished"
"""The folder in a prefix that is being made: first made, last removed. It holds what is unpacked."""

LONGEST = 255
"""Bytes of a prefix's path: the space that conda packages keep for it in binary files (conda-build's placeholder)."""

_FORBIDDEN = ':"$`\\'


def check_path(prefix: Path) -> Path:
    """The absolute path of a prefix, which programs with that path in them must be able to live with.

    Raises:
        EnvbuildError: exit 2: too long, or with characters that PATH or a shell would take apart.
    """
    path = Path(os.path.abspath(prefix.expanduser()))  # noqa: PTH100  # `..` goes, symbolic links stay
    text = str(path)
    bad = sorted({c for c in text if c in _FORBIDDEN or not c.isprintable()})
    if bad:
        shown = " ".join(repr(c) for c in bad)
        raise _refused("bad-prefix", f"the path of an environment cannot contain {shown}: {text!r}")
    if len(os.fsencode(text)) > LONGEST:
        raise _refused(
            "prefix-too-long",
            f"the path has {len(os.fsencode(text))} bytes, and conda packages keep space for {LONGEST}: {text}",
        )
    return path


class Claim:
    """A prefix that is ours until :meth:`finish` or :meth:`give_up`."""

    def __init__(self, path: Path, handle: int, made: list[Path]) -> None:
        self.path = path
        self.work = path / UNFINISHED
        self._handle = handle
        self._made = made

    @property
    def handle(self) -> int:
        """The descriptor that holds the lock: a child that has it keeps the prefix claimed while it lives."""
        return self._handle

    @property
    def is_new(self) -> bool:
        """Whether the folder was not there before."""
        return self.path in self._made

    def finish(self) -> None:
        """The environment is whole."""
        remove_tree(self.work)
        self._release()

    def give_up(self) -> None:
        """Leave everything as it was before."""
        try:
            empty(self.path)
            for folder in reversed(self._made):
                with suppress(OSError):  # not ours alone any more
                    folder.rmdir()
        finally:
            self._release()

    def _release(self) -> None:
        os.close(self._handle)


def claim(prefix: Path, progress: Progress) -> Claim:
    """Make the folder ``prefix`` ours: new, empty, or left half-made by a run that was killed (then it is emptied).

    Another envbuild that works there is waited for.

    Raises:
        EnvbuildError: exit 2, it holds something, or cannot be made.
    """
    made: list[Path] = []
    try:
        made = _make(prefix)
        handle = _locked(prefix, progress)
        try:
            _take(prefix, progress)
        except BaseException:
            os.close(handle)
            raise
    except BaseException as error:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise prefix_error(error, prefix) from error
        raise
    return Claim(prefix, handle, made)


def refuse_taken(prefix: Path) -> None:
    """Refuse a prefix that holds something other than an unfinished environment; make nothing.

    Raises:
        EnvbuildError: exit 2.
    """
    try:
        names = {path.name for path in prefix.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise prefix_error(error, prefix) from error
    if names and not (prefix / UNFINISHED).is_dir():
        what = "is a conda environment already" if "conda-meta" in names else "exists and is not empty"
        raise EnvbuildError(
            "prefix-exists", f"{prefix} {what}",
            hint="Name another folder with --prefix, or remove this one.", exit=Exit.USAGE, where=str(prefix),
        )  # fmt: skip


def prefix_error(error: OSError, prefix: Path) -> EnvbuildError:
    """The one error for a prefix that cannot be made or written: exit 2, a full disk 7."""
    where = str(error.filename) if error.filename else str(prefix)
    if is_full(error):
        return full(prefix)
    if isinstance(error, NotADirectoryError | FileExistsError):
        return _refused("prefix-exists", f"{where} is a file, not a folder")
    return EnvbuildError(
        "prefix-not-writable", f"{where}: {error.strerror or error}",
        hint="Name a folder with --prefix that you may write to.", exit=Exit.USAGE, where=str(prefix),
    )  # fmt: skip


def full(prefix: Path) -> EnvbuildError:
    """The error for a disk that filled up below the prefix."""
    choose = "free some space, or name a folder on another disk with --prefix"
    return disk_full(
        prefix, hint=f"{choose}; what was made there is removed, what was fetched is kept in the store"
    )


def empty(folder: Path) -> None:
    """Remove everything in a folder; the mark of an unfinished prefix goes last."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == UNFINISHED):
        remove_tree(path)


def _make(prefix: Path) -> list[Path]:
    missing = [path for path in (prefix, *prefix.parents) if not path.exists() and not path.is_symlink()]
    made: list[Path] = []
    for path in reversed(missing):
        with suppress(FileExistsError):  # somebody else was faster
            path.mkdir(mode=0o755)
            made.append(path)
    return made


def _locked(prefix: Path, progress: Progress) -> int:
    """Lock the folder itself, so that the lock needs no file in it."""
    told = False
    waits = pauses()
    while True:
        handle = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
        except OSError:
            return handle  # a file system without such locks (NFS locks no folders): one run at a time is up to people
        else:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), prefix.stat()):
                    return handle
            os.close(handle)
            _make(prefix)
            continue
        if not told:
            progress.note(f"waiting for another envbuild, which works on {prefix}")
            told = True
        next(waits)


def _take(prefix: Path, progress: Progress) -> None:
    refuse_taken(prefix)
    if (prefix / UNFINISHED).is_dir():
        progress.note(f"{prefix} was left unfinished by a run that was killed: it is made anew")
        empty(prefix)
    (prefix / UNFINISHED).mkdir()


def _refused(id: str, message: str) -> EnvbuildError:
    return EnvbuildError(id, message, hint="Name another folder with --prefix.", exit=Exit.USAGE)
