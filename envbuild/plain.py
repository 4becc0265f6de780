"""Text of others as it may be shown: what a terminal would obey, or nobody would see, is written out."""

from __future__ import annotations

import json
import re

_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that are printable by their category and shown as nothing (Unicode: Default_Ignorable_Code_Point)."""


def is_plain(text: str) -> bool:
    """Whether ``text`` is one line of nothing but what is seen: no control, formatting or invisible character."""
    return text.isprintable() and not _BLANK.search(text)


def visible(text: str, *, lines: bool = False) -> str:
    """``text`` with every other character as Python spells it (``\\x1b``, ``\\u202e``).

    Control characters (C0, C1, DEL) move the cursor and rewrite what stands there, bidirectional formatting turns
    text around, zero-width characters hide in names, and lone surrogates cannot be encoded at all.

    Args:
        text: whatever it is.
        lines: whether line ends stay: in texts of envbuild's own, which have lines.
    """
    if is_plain(text):
        return text
    return "".join(
        char if is_plain(char) or (lines and char == "\n") else char.encode("unicode_escape").decode()
        for char in text
    )


def json_text(value: object) -> str:
    """``value`` as indented JSON that holds such characters only as JSON's escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if is_plain(text.replace("\n", "")):
        return text
    return "".join(char if char == "\n" or is_plain(char) else json.dumps(char)[1:-1] for char in text)
