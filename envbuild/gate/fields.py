"""What the fields of reports and verdicts may hold: forms that reading checks and the published schema tells."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta

_END = r"$(?!\n)"  # the end, and not a line end before it, to Python's and ECMAScript's engines alike
_UNSEEN = r"\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"

Digest = Annotated[str, Meta(pattern=rf"^sha256:[0-9a-f]{{64}}{_END}")]
"""A sha256 digest."""

Line = Annotated[str, Meta(pattern=rf"^[^{_UNSEEN}]*{_END}", max_length=4096)]
"""One line of text: no control character, nothing that turns text around, nothing that is not seen."""

Name = Annotated[str, Meta(pattern=rf"^[^{_UNSEEN}]+{_END}", max_length=256)]
"""A line that is not empty: a GPU's name, a variable's."""

CheckId = Annotated[str, Meta(pattern=rf"^[a-z0-9][a-z0-9-]*{_END}", max_length=64)]
"""A check's name."""

ImageRef = Annotated[
    str, Meta(pattern=rf"^[a-z0-9][a-z0-9._-]*:[A-Za-z0-9_][A-Za-z0-9._-]*{_END}", max_length=512)
]
"""``name:tag``."""

Seconds = Annotated[float, Meta(ge=0, le=1e9)]
"""A duration; finite."""

Count = Annotated[int, Meta(ge=0, le=1 << 53)]
"""A number of things or bytes, which every reader of JSON can hold."""

Time = Annotated[
    str,
    Meta(
        pattern=rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(\.[0-9]{{1,9}})?Z{_END}"
    ),
]
"""RFC 3339 in UTC. :func:`moment` says whether there is such a date."""


def moment(text: str) -> datetime:
    """The time that a :data:`Time` names.

    Raises:
        ValueError: there is no such date (``2026-02-30T…``).
    """
    whole = text.removesuffix("Z").partition(".")[0]
    return datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
