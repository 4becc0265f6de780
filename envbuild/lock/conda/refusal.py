"""What goes wrong with a channel, in words that a person can act on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.conda.channels import SUBDIRS, CondaChannels

if TYPE_CHECKING:
    from rattler import RepoDataRecord

_SECRET = re.compile(r"(?<=://)[^/@\s]+@|(?<=/t/)[^/\s]+")
_CONTENT = re.compile(
    r"at line \d+ column \d+|frame descriptor|invalid type|missing field|EOF while|[Hh]ash mismatch|checksum"
)
"""What py-rattler says of bytes that are no repodata, or not those that were announced."""

HINT = (
    "Check the network, or name a mirror or a folder: --channel NAME=URL|DIR, ENVBUILD_CONDA_CHANNELS. The committed "
    "conda.lock.json still serves; `envbuild lock REF --only image` locks the image alone."
)


def of_channel(channels: CondaChannels, names: Sequence[str], error: Exception) -> EnvbuildError:
    """The error that py-rattler gave while it read channels, as envbuild's: exit 4 or 5."""
    reasons = _reasons(error)
    shown = ", ".join(f"{name} ({channels.shown(name)})" for name in names)
    text = " ".join(reasons)
    if re.search(r"\b(401 Unauthorized|403 Forbidden)\b", text):
        return EnvbuildError(
            "channel-refused", f"{shown} wants credentials: {reasons[-1]}", exit=Exit.NETWORK,
            hint="Put them into the channel's address (--channel NAME=https://USER:PASSWORD@HOST/…) or ~/.netrc.",
        )  # fmt: skip
    if _CONTENT.search(text):
        return EnvbuildError(
            "channel-wrong", f"{shown} serves what is no repodata: {reasons[-1]}", exit=Exit.VERIFY,
            hint="Something between here and the channel changes files, or the folder is damaged: check the mirror, or "
            "name another with --channel NAME=URL|DIR.",
        )  # fmt: skip
    return EnvbuildError(
        "channel-down", f"{shown} cannot be read: {reasons[-1]}", hint=HINT, exit=Exit.NETWORK
    )


def check_record(record: RepoDataRecord, shown: str) -> None:
    """Refuse a record that cannot be locked: no sha256 or size, another platform, a file of another name.

    Raises:
        EnvbuildError: exit 5.
    """
    expected = f"{record.name.normalized}-{record.version}-{record.build}"
    if record.subdir not in SUBDIRS or record.file_name not in (f"{expected}.conda", f"{expected}.tar.bz2"):
        raise EnvbuildError(
            "channel-wrong", f"{shown} gives {record.file_name} as {expected} for {record.subdir}", exit=Exit.VERIFY,
            hint="The channel is indexed wrongly: index it again, or name another with --channel NAME=URL|DIR.",
            where=record.file_name,
        )  # fmt: skip
    lacks = "sha256" if record.sha256 is None else "size" if not record.size else None
    if lacks:
        raise EnvbuildError(
            "no-hash", f"{shown} gives no {lacks} for {record.file_name}, so that the file could not be checked",
            hint="Index the channel again with a current conda-index, or name another with --channel.",
            exit=Exit.VERIFY, where=record.file_name,
        )  # fmt: skip


def _reasons(error: Exception) -> list[str]:
    """What the error says, outermost first, each once, without credentials."""
    lines = [re.sub(r"^(\d+:|[├└│─ ]+|Caused by:)\s*", "", line.strip()) for line in str(error).splitlines()]
    found = [_SECRET.sub("", line) for line in lines if line]
    return list(dict.fromkeys(found)) or [type(error).__name__]
