"""The nearest valid spelling, for hints."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from packaging.version import InvalidVersion, Version

_LONGEST = 300
"""Characters of a word that may be a misspelled one. Comparing takes time by the square of them."""


def nearest(word: str, choices: Iterable[str], *, limit: int = 1) -> list[str]:
    """The choices most like ``word``, best first; none where nothing is alike.

    Case and the difference of ``-``, ``_`` and ``.`` do not count. A choice that starts with the whole word, or
    the other way round, counts as alike. The order is total, so that the same input gives the same hint.
    """
    if len(word) > _LONGEST:
        return []
    plain = _plain(word)
    scored = []
    for choice in set(choices):
        other = _plain(choice)
        ratio = SequenceMatcher(None, plain, other, autojunk=False).ratio()
        if plain and other and (other.startswith(plain) or plain.startswith(other)):
            ratio = max(ratio, 0.7)
        if ratio >= 0.6:
            scored.append((-ratio, choice))
    return [choice for _, choice in sorted(scored)[:limit]]


def nearest_versions(version: str, existing: Iterable[str], *, limit: int = 3) -> list[str]:
    """The existing versions (PEP 440) nearest to ``version``, nearest first.

    Near means: the same leading numbers first, then the smallest difference in the first number that is
    another. Pre-releases are offered only where one was asked for or nothing else exists.
    """
    try:
        asked = Version(version)
    except InvalidVersion:
        return nearest(version, existing, limit=limit)
    known = []
    for text in set(existing):
        try:
            known.append(Version(text))
        except InvalidVersion:
            continue
    if not asked.is_prerelease:
        known = [item for item in known if not item.is_prerelease] or known
    return [str(item) for item in sorted(known, key=lambda item: _distance(asked, item))[:limit]]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``Did you mean "x"? `` with a trailing space, or nothing."""
    found = nearest(word, choices)
    return f'Did you mean "{found[0]}"? ' if found else ""


def listed(words: Iterable[str]) -> str:
    """``"a", "b" and "c"``: words for a message, in the order given."""
    quoted = [f'"{word}"' for word in words]
    if len(quoted) < 2:
        return "".join(quoted)
    return ", ".join(quoted[:-1]) + " and " + quoted[-1]


def _plain(word: str) -> str:
    return word.lower().replace("_", "-").replace(".", "-")


def _distance(asked: Version, other: Version) -> tuple[int, int, Version]:
    width = max(len(asked.release), len(other.release))
    left = asked.release + (0,) * (width - len(asked.release))
    right = other.release + (0,) * (width - len(other.release))
    for position, (a, b) in enumerate(zip(left, right, strict=True)):
        if a != b:
            return (-position, abs(a - b), other)
    return (-width, 0, other)
