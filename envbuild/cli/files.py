"""Files that a command writes beside a recipe or where the user said."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.disk import unless_full
from envbuild.readback import readable

if TYPE_CHECKING:
    from envbuild.lock import CondaLock, Lock

_ROOM = "free some space, then run the command again; what was there is as it was"


def check_target(path: Path | None) -> None:
    """See before the work starts that a file which it ends with can be written. Devices and pipes are left alone.

    Raises:
        EnvbuildError: exit 2: its folder is not there or not writable.
    """
    if path is None or (path.exists() and not path.is_file() and not path.is_dir()):
        return
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or path.is_dir():
        raise EnvbuildError(
            "cannot-write",
            f"{path} cannot be written: {'it' if path.is_dir() else folder} is "
            + ("a folder" if path.is_dir() else "not writable" if folder.is_dir() else "no folder"),
            where=str(path),
            hint=f"mkdir -p {folder}, or name another file",
            exit=Exit.USAGE,
        )


def write_lock(path: Path, lock: Lock) -> None:
    """Replace the lock at ``path``.

    Raises:
        EnvbuildError: as :func:`replace_file`; exit 3, it could not be read again.
    """
    from envbuild.lock import lock_bytes, parse_lock

    where = str(path)
    replace_file(path, readable(lambda: lock_bytes(lock), lambda data: parse_lock(data, path), where=where))


def write_conda_lock(path: Path, lock: CondaLock) -> None:
    """As :func:`write_lock`, of a conda lock."""
    from envbuild.lock import conda_lock_bytes, parse_conda_lock

    where = str(path)
    replace_file(
        path, readable(lambda: conda_lock_bytes(lock), lambda data: parse_conda_lock(data, path), where=where)
    )


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: a reader sees the old content or the new, never a part.

    Raises:
        EnvbuildError: exit 2 when it cannot be written, 7 when the disk is full; what was there stays.
    """
    if path.is_file() and path.read_bytes() == data:
        return
    if path.exists() and not path.is_file():
        raise EnvbuildError(
            "cannot-write",
            f"{path} is not a file",
            hint="move it away and run the command again",
            exit=Exit.USAGE,
        )
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            temporary = Path(stream.name)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        other = EnvbuildError(
            "cannot-write",
            f"cannot write {path}: {error.strerror}",
            hint="make the folder writable, or copy the recipe to a folder of yours and give --recipes DIR",
            exit=Exit.USAGE,
        )
        raise unless_full(error, path, other, hint=_ROOM) from error
