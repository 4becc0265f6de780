"""Licences by the names that packages give them, as SPDX expressions (spdx.org/licenses; SPDX 2.3, annex D)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from envbuild.plain import is_plain

_NAMES = {
    "academic free license (afl)": "AFL-3.0",
    "all-permissive": "FSFAP",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-1": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "boost": "BSL-1.0",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "bsd-tcp_wrappers": "TCP-wrappers",
    "bsd3": "BSD-3-Clause",
    "bsl-1": "BSL-1.0",
    "cc0": "CC0-1.0",
    "edl-1.0": "BSD-3-Clause",
    "expat": "MIT",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mit/x11": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "openldap-2.8": "OLDAP-2.8",
    "psfl": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
    "zlib/libpng license": "Zlib",
}
"""What neither SPDX nor the rule for GNU's licences knows, in lower case: Debian's short names, classifiers' ends, and
what is often written into METADATA. A bare ``BSD`` is none: nobody knows how many clauses it has."""

_GNU = re.compile(
    r"(?P<kind>AGPL|LGPL|GPL|GFDL)(?P<free>-NIV)?(?:[- ]?v?(?P<version>\d+(?:\.\d+)?)(?:\.0)?)?(?P<later>\+|-or-later)?"
    r"(?:-only)?(?P<invariant>-no-invariants?)?",
    re.IGNORECASE,
)
_FIRST = {"AGPL": "3.0", "LGPL": "2.0", "GPL": "1.0", "GFDL": "1.1"}
_EXCEPTIONS = {
    ("autoconf", "2"): "Autoconf-exception-2.0",
    ("autoconf", "3"): "Autoconf-exception-3.0",
    ("bison", "3"): "Bison-exception-2.2",
    ("bison-2.2", "3"): "Bison-exception-2.2",
    ("classpath", "2"): "Classpath-exception-2.0",
    ("libtool", "2"): "Libtool-exception",
    ("libtool", "3"): "Libtool-exception",
    ("linux-syscall-note", "2"): "Linux-syscall-note",
    ("texinfo", "2"): "Texinfo-exception",
    ("texinfo", "3"): "Texinfo-exception",
}
"""Exceptions by Debian's name and the major version of the GPL that they are to."""

_WITH = re.compile(
    r"(?P<name>\S+?)(?:[\s-]with[\s-]|(?<=[\d+])-)\s*(?P<exception>.+?)(?:[\s-]exception)?", re.IGNORECASE
)
_SHORT = 80


def spdx_expression(text: str) -> str | None:
    """The canonical form of a valid SPDX expression, or ``None``."""
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def spdx_id(name: str) -> str | None:
    """The SPDX expression of one licence by whatever name it goes, or ``None``.

    GNU's licences without a version are those of any version, as their texts say.
    """
    key = " ".join(name.split())
    match = _GNU.fullmatch(key)
    if match:
        return gnu(
            match["kind"],
            match["version"],
            later=bool(match["later"]),
            invariants=not (match["free"] or match["invariant"]),
        )
    return _NAMES.get(key.lower()) or (spdx_expression(key) if " " not in key else None)


def gnu(kind: str, version: str | None, *, later: bool, invariants: bool = True) -> str:
    """The SPDX id of a licence of GNU's.

    Args:
        kind: ``GPL``, ``LGPL``, ``AGPL`` or ``GFDL``.
        version: ``2``, ``2.1``; ``None`` for any.
        later: whether later versions may be chosen.
        invariants: for the GFDL: whether the document may have invariant sections.
    """
    kind = kind.upper()
    number = (version or _FIRST[kind]) + ("" if "." in (version or _FIRST[kind]) else ".0")
    if kind == "GFDL" and number.endswith(".0"):
        number = _FIRST[kind]
    free = "-no-invariants" if kind == "GFDL" and not invariants else ""
    return f"{kind}-{number}{free}-{'or-later' if later or version is None else 'only'}"


def debian_expression(text: str) -> str:
    """The SPDX expression of a ``License:`` line of a machine-readable copyright file.

    Its words are short names, ``with … exception``, ``and``, ``or`` (which binds less) and a comma before those two
    (which binds least); Debian's "Machine-readable debian/copyright file", 1.0, section 7. A name that SPDX does not
    know stands for the text that the file gives under it: ``LicenseRef-<name>``.
    """
    words = re.sub(r"\s+and/or\s+", " or ", " ".join(text.split()), flags=re.IGNORECASE)
    pieces = re.split(r"\s*,\s+(and|or)\s+", words, flags=re.IGNORECASE)
    joined = [piece.upper() if at % 2 else _alternatives(piece) for at, piece in enumerate(pieces)]
    if len(joined) > 1:
        joined = [f"({part})" if " OR " in part or " AND " in part else part for part in joined]
    return " ".join(joined)


def _alternatives(text: str) -> str:
    """Names joined by ``and``, which binds more, and ``or``; alternatives in a fixed order."""
    choices = re.split(r"\s+or\s+", text.strip(" ,"), flags=re.IGNORECASE)
    parts = [re.split(r"\s+and\s+", choice, flags=re.IGNORECASE) for choice in choices]
    return " OR ".join(sorted(" AND ".join(_named(name) for name in part) for part in parts))


def _named(name: str) -> str:
    known = spdx_id(name)
    if known:
        return known
    match = _WITH.fullmatch(name)
    licence = spdx_id(match["name"]) if match else None
    if match and licence and (major := re.search(r"GPL-(\d)", licence)):
        exception = _EXCEPTIONS.get((match["exception"].lower(), major[1]))
        if exception:
            return f"{licence} WITH {exception}"
    return reference(name)


def reference(name: str) -> str:
    """A licence of the package's own: ``LicenseRef-`` and its name in the letters that SPDX allows."""
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", re.sub(r"\+(?!\w)", "-or-later", name)).strip("-.")


def all_of(expressions: Iterable[str]) -> str:
    """One expression that says that all of these hold for parts of the package; each once, in a fixed order."""
    terms = sorted({term for text in expressions for term in _terms(text)})
    return terms[0] if len(terms) == 1 else " AND ".join(f"({t})" if _has_choice(t) else t for t in terms)


def _terms(text: str) -> Iterator[str]:
    """What an expression joins by AND outside of all parentheses; parentheses around a whole term are taken off."""
    if _has_choice(text):
        yield text
        return
    depth, term = 0, ""
    for word in [*text.split(" "), "AND"]:
        if word == "AND" and not depth:
            yield from [term] if term == text or not _is_closed(term) else _terms(term[1:-1])
            term = ""
        else:
            depth += word.count("(") - word.count(")")
            term = f"{term} {word}".strip()


def _is_closed(term: str) -> bool:
    return term.startswith("(") and term.endswith(")")


def _has_choice(text: str) -> bool:
    """Whether an OR stands outside of all parentheses."""
    return " OR " in re.sub(r"\([^()]*\)", "", text)


def one_line(text: str) -> str:
    """A text of a package's own as one line, without characters that are obeyed or not seen."""
    return " ".join("".join(char if is_plain(char) else " " for char in text).split())


def short_text(text: str) -> str | None:
    """A licence that has no SPDX id, as one line; ``None`` for a long text or no name at all."""
    line = one_line(text)
    return line if line and len(line) <= _SHORT and line.upper() not in {"UNKNOWN", "NONE"} else None
