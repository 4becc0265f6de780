"""What happened in another process, as JSON: an error there is raised again here."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.disk import disk_full, is_full


def described(error: BaseException) -> dict[str, object]:
    """An error as JSON."""
    if isinstance(error, EnvbuildError):
        return {"error": {**error.to_dict(), "exit": int(error.exit)}}
    if isinstance(error, OSError) and is_full(error):
        return described(disk_full(error.filename or os.getcwd(), error.strerror))
    return {"bug": "".join(traceback.format_exception(error))}


def raise_described(value: Mapping[str, object]) -> None:
    """Raise what :func:`described` described; nothing where ``value`` is something else."""
    error = value.get("error")
    if isinstance(error, Mapping):
        raise EnvbuildError(
            error["id"],
            error["message"],
            where=error["where"],
            hint=error["hint"],
            exit=Exit(error["exit"]),
        )
    if "bug" in value:
        raise RuntimeError(value["bug"])
