"""Debian version numbers and their order (Debian policy 5.6.12; deb-version(7))."""

from __future__ import annotations

import re
from functools import total_ordering
from itertools import zip_longest

_PART = re.compile(r"([^0-9]*)([0-9]*)")

_MOST = 4000
"""Digits of a number that Python reads; no version has as many."""


@total_ordering
class DebianVersion:
    """``[epoch:]upstream[-revision]``, comparable."""

    __slots__ = ("epoch", "key", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        epoch, colon, rest = text.partition(":")
        if not colon:
            epoch, rest = "0", text
        upstream, dash, revision = rest.rpartition("-")
        if not dash:
            upstream, revision = rest, ""
        self.epoch = int(epoch) if epoch.isascii() and epoch.isdigit() and len(epoch) < _MOST else 0
        self.key = (_parts(upstream), _parts(revision))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DebianVersion) and self.compare(other) == 0

    def __lt__(self, other: DebianVersion) -> bool:
        return self.compare(other) < 0

    def __hash__(self) -> int:
        return hash(self.epoch)

    def compare(self, other: DebianVersion) -> int:
        """Less than, equal to or greater than 0, as this version is older, equal or newer."""
        if self.epoch != other.epoch:
            return self.epoch - other.epoch
        for mine, theirs in zip(self.key, other.key, strict=True):
            for (a, x), (b, y) in zip_longest(mine, theirs, fillvalue=((0,), 0)):
                if a != b:
                    return -1 if a < b else 1
                if x != y:
                    return x - y
        return 0

    def satisfies(self, operator: str, wanted: DebianVersion) -> bool:
        """Whether ``self operator wanted`` holds, with the operators of policy 7.1."""
        order = self.compare(wanted)
        return {
            "<<": order < 0,
            "<=": order <= 0,
            "<": order <= 0,
            "=": order == 0,
            ">=": order >= 0,
            ">": order >= 0,
            ">>": order > 0,
        }[operator]


def _parts(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Alternating non-digits and digits; ``~`` sorts before the end, letters before other characters."""
    found = []
    for letters, digits in _PART.findall(text):
        if letters or digits:
            found.append(((*(_weight(item) for item in letters), 0), _number(digits)))
    return tuple(found)


def _number(digits: str) -> int:
    """Its value; of more digits than Python takes it is their count, in front of every other."""
    return int(digits or 0) if len(digits) < _MOST else 10**_MOST + len(digits)


def _weight(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256
