"""Who a container runs as: the image config's ``User`` looked up in the image's own passwd and group files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envbuild.errors import EnvbuildError, Exit

TABLES = ("/etc/passwd", "/etc/group")
"""What :func:`find_user` needs of the image."""

_MOST_IDS = (1 << 32) - 1
_DIGITS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Numeric ids, the home folder, and the ids of the other groups that the user is in."""

    uid: int
    gid: int
    home: str
    groups: tuple[int, ...] = ()


def find_user(spec: str, texts: Mapping[str, str]) -> User:
    """Resolve ``user``, ``uid``, ``user:group`` or ``uid:gid`` (OCI image spec, config.md, "User").

    Args:
        spec: as in the config or on the command line; empty means root.
        texts: the image's :data:`TABLES`, by path, as a container sees them; one may be missing.

    Error: ``no-such-user`` (exit 2).
    """
    name, _, group = spec.partition(":")
    users = _table(texts, "/etc/passwd", fields=6, numbers=(2, 3))
    groups = _table(texts, "/etc/group", fields=3, numbers=(2,))
    entry = next((row for row in users if name and name in (row[0], row[2])), None)
    if not name:
        entry = next((row for row in users if row[2] == "0"), None)
        uid = 0
    elif entry is not None:
        uid = int(entry[2])
    elif _is_id(name):
        uid = int(name)
    else:
        raise _unknown("user", name, [row[0] for row in users])
    if not group:
        gid = int(entry[3]) if entry else 0
    elif _is_id(group):
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


def _table(texts: Mapping[str, str], path: str, *, fields: int, numbers: tuple[int, ...]) -> list[list[str]]:
    """The rows of a colon-separated file; broken lines are left out, as libc does."""
    rows = [line.split(":") for line in texts.get(path, "").splitlines()]
    return [row for row in rows if len(row) >= fields and all(_is_id(row[number]) for number in numbers)]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) < _MOST_IDS


def _unknown(kind: str, name: str, known: Sequence[str]) -> EnvbuildError:
    return EnvbuildError(
        "no-such-user",
        f"the image has no {kind} {name!r}",
        hint=f"it has: {', '.join(known[:12]) or 'none'}; or give numbers, uid:gid",
        exit=Exit.USAGE,
    )
