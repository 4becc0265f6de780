"""Subordinate ids: which uids and gids an ordinary user may use in a user namespace (subuid(5), newuidmap(1))."""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit

NEEDED = 65535
"""How many subordinate ids there must be: with the user's own (0 inside), Debian's nobody is 65534."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMaps:
    """Arguments of newuidmap and newgidmap after the process id: triples of inside, outside, count."""

    uids: tuple[int, ...]
    gids: tuple[int, ...]

    def to_dict(self) -> dict[str, object]:
        """The value as JSON for the helper process."""
        return {"uids": list(self.uids), "gids": list(self.gids)}


def subordinate_ids(
    *, uid: int, gid: int, subuid: Path = Path("/etc/subuid"), subgid: Path = Path("/etc/subgid")
) -> IdMaps:
    """The maps for a user: 0 is the user, 1 to 65535 the user's subordinate ids.

    Raises:
        EnvbuildError: newuidmap or the ranges are missing; says what to install or configure.
    """
    name = _name(uid)
    if shutil.which("newuidmap") is None or shutil.which("newgidmap") is None:
        raise _impossible(
            "newuidmap and newgidmap are not installed",
            f"install them (Debian, Ubuntu: sudo apt-get install uidmap; Fedora: shadow-utils){_ranges_hint(name)}",
        )
    uids = _range(subuid, name, uid)
    gids = _range(subgid, name, uid)
    if uids is None or gids is None:
        lacking = " and ".join(str(path) for path, found in ((subuid, uids), (subgid, gids)) if found is None)
        raise _impossible(
            f"user {name} has no range of {NEEDED} subordinate ids in {lacking}", _ranges_hint(name)[2:]
        )
    return IdMaps(uids=(0, uid, 1, 1, uids, NEEDED), gids=(0, gid, 1, 1, gids, NEEDED))


def _ranges_hint(name: str) -> str:
    return (
        f"; give {name} ranges: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
    )


def _impossible(message: str, hint: str) -> EnvbuildError:
    return EnvbuildError(
        "sandbox-ids",
        f"without root the sandbox needs a range of user ids: {message}",
        hint=f"{hint}; or run as root",
        exit=Exit.ENGINE,
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _range(path: Path, name: str, uid: int) -> int | None:
    """The first id of the user's first range that is long enough."""
    if not os.access(path, os.R_OK):
        return None
    for line in path.read_text(errors="replace").splitlines():
        fields = line.strip().split(":")
        if len(fields) != 3 or fields[0] not in (name, str(uid)):
            continue
        if fields[1].isdigit() and fields[2].isdigit() and int(fields[2]) >= NEEDED:
            return int(fields[1])
    return None
