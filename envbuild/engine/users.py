"""Who a container runs as: the image config's ``User`` looked up in the image's own passwd and group files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Numeric ids, the home folder, and the ids of the other groups that the user is in."""

    uid: int
    gid: int
    home: str
    groups: tuple[int, ...] = ()


def find_user(spec: str, roots: Sequence[Path]) -> User:
    """Resolve ``user``, ``uid``, ``user:group`` or ``uid:gid`` (OCI image spec, config.md, "User").

    Args:
        spec: as in the config or on the command line; empty means root.
        roots: the image's unpacked layers, bottom first.

    Error: ``no-such-user`` (exit 2).
    """
    name, _, group = spec.partition(":")
    users = _table(roots, "etc/passwd", fields=6)
    groups = _table(roots, "etc/group", fields=3)
    entry = next((row for row in users if name and name in (row[0], row[2])), None)
    if not name:
        entry = next((row for row in users if row[2] == "0"), None)
        uid = 0
    elif entry is not None:
        uid = int(entry[2])
    elif name.isdigit():
        uid = int(name)
    else:
        raise _unknown("user", name, [row[0] for row in users])
    if not group:
        gid = int(entry[3]) if entry else 0
    elif group.isdigit():
        gid = int(group)
    else:
        row = next((row for row in groups if row[0] == group), None)
        if row is None:
            raise _unknown("group", group, [row[0] for row in groups])
        gid = int(row[2])
    member = entry[0] if entry else None
    others = (
        () if group else tuple(int(row[2]) for row in groups if len(row) > 3 and member in row[3].split(","))
    )
    return User(uid=uid, gid=gid, home=entry[5] if entry else "/", groups=others)


def _table(roots: Sequence[Path], name: str, *, fields: int) -> list[list[str]]:
    """The topmost layer's version of a colon-separated file; broken lines are left out, as libc does."""
    for root in reversed(roots):
        path = root / name
        if path.is_file() and not path.is_symlink():
            rows = [
                line.split(":") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
            ]
            return [row for row in rows if len(row) >= fields and row[2].isdigit()]
    return []


def _unknown(kind: str, name: str, known: Sequence[str]) -> EnvbuildError:
    return EnvbuildError(
        "no-such-user",
        f"the image has no {kind} {name!r}",
        hint=f"it has: {', '.join(known[:12]) or 'none'}; or give numbers, uid:gid",
        exit=Exit.USAGE,
    )
