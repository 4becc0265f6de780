"""What a Debian package's ``copyright`` says of its licences, in SPDX's terms (Debian Policy, 12.5)."""

from __future__ import annotations

import re

from envbuild.layers.licence_names import (
    all_of,
    debian_expression,
    gnu,
    reference,
    spdx_expression,
    spdx_id,
)

_FORMAT = re.compile(r"^Format(-Specification)?:", re.IGNORECASE | re.MULTILINE)
_LICENSE = re.compile(r"^License:[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_FILES = re.compile(r"^Files:", re.IGNORECASE | re.MULTILINE)

_GNU = {"": "GPL", "Lesser ": "LGPL", "Library ": "LGPL", "Affero ": "AGPL"}
_GRANT = re.compile(
    r"GNU (?P<kind>Lesser |Library |Affero |)General Public Licen[sc]e(?:(?!Public Licen|Documentation).){0,160}?"
    r"version (?P<version>\d(?:\.\d)?)(?P<rest>[^.]{0,70})",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    r"version (?P<version>\d(?:\.\d)?)(?P<rest>[^.]{0,40}?) of the "
    r"GNU (?P<kind>Lesser |Library |Affero |)General Public",
    re.IGNORECASE,
)
_SHORT = re.compile(
    r"\b(?P<kind>A?GPL|LGPL) ?v(?P<version>\d(?:\.\d)?)(?P<rest>\+| or later|)", re.IGNORECASE
)
_GFDL = re.compile(
    r"GNU Free Documentation License,? version (?P<version>\d\.\d)(?P<rest>.{0,200})", re.IGNORECASE
)
_LATER = re.compile(r"\+|any later|or later|any higher", re.IGNORECASE)
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.-]*[A-Za-z0-9])")

_PHRASES = (
    (r"Permission is hereby granted,? free of charge,? to any person obtaining a copy", "MIT"),
    (r"Permission to use, copy, modify,? and(?:/or)? distribute this software for any purpose with or without", "ISC"),
    (r"In no event will the authors? be held liable for any damages arising from the use of this software", "Zlib"),
    (r"Licensed under the Apache License,? Version 2\.0", "Apache-2.0"),
    (r"Apache License,? v(?:ersion )?2\.0 with LLVM Exceptions", "Apache-2.0 WITH LLVM-exception"),
    (r"BEOPEN(?:\.COM)? PYTHON OPEN SOURCE LICENSE AGREEMENT|BEOPEN\.COM (?:TERMS|LICENSE)", "Python-2.0"),
    (r"GCC Runtime Library Exception", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    (r"(?:in|into|to) the public domain|(?:is|in|into) public domain", "LicenseRef-public-domain"),
)  # fmt: skip
_BSD = re.compile(r"Redistribution and use in source and binary forms", re.IGNORECASE)
_BSD_LENGTH = 1500


def copyright_expression(text: str, package: str) -> str:
    """The SPDX expression for all that is in a package, or a short text where nothing in it is known.

    Of a machine-readable file it is what its ``Files`` paragraphs name. Of free text it is what well-known phrases and
    the names of common licences tell: enough for an inventory, and no legal advice; the text itself is in the image.

    Args:
        text: the file's content.
        package: the package's name, for the short text.
    """
    found = _machine_readable(text) if _FORMAT.search(text) else []
    expression = all_of(found or _told(text))
    if expression and spdx_expression(expression):
        return expression
    return f"see /usr/share/doc/{package}/copyright"


def _machine_readable(text: str) -> list[str]:
    """The licences of the paragraphs that name files; of all paragraphs where none does."""
    paragraphs = re.split(r"\n[ \t]*\n", text.replace("\r", ""))
    lines = [(bool(_FILES.search(part)), match[1]) for part in paragraphs if (match := _LICENSE.search(part))]
    names = [name for of_files, name in lines if of_files] or [name for _, name in lines]
    return [debian_expression(name) for name in dict.fromkeys(names)]


def _told(text: str) -> list[str]:
    """What free text tells."""
    plain = " ".join(re.sub(r"^[ \t]*(?:\*|#|//|;)+", "", text, flags=re.MULTILINE).split())
    found = [
        gnu(kind, match["version"], later=bool(_LATER.search(match["rest"])))
        for pattern in (_GRANT, _BEFORE, _SHORT)
        for match in pattern.finditer(plain)
        for kind in (_GNU.get(match["kind"].capitalize(), match["kind"].upper()),)
    ]
    found += [
        gnu(
            "GFDL", match["version"], later=bool(_LATER.search(match["rest"])),
            invariants="no Invariant" not in match["rest"],
        )
        for match in _GFDL.finditer(plain)
    ]  # fmt: skip
    found += [expression for phrase, expression in _PHRASES if re.search(phrase, plain, re.IGNORECASE)]
    found += [_bsd(plain[match.end() : match.end() + _BSD_LENGTH]) for match in _BSD.finditer(plain)]
    kinds = {name.partition("-")[0] for name in found}
    for name in _COMMON.findall(text):
        if name.partition("-")[0] not in kinds:
            found.append("BSD-3-Clause" if name == "BSD" else spdx_id(name) or reference(name))
    return [name for name in dict.fromkeys(found) if spdx_expression(name)]


def _bsd(terms: str) -> str:
    """Which of the BSD licences it is, by the clauses that follow its first words."""
    if re.search("advertising materials mentioning", terms, re.IGNORECASE):
        return "BSD-4-Clause"
    return "BSD-3-Clause" if re.search("endorse or promote", terms, re.IGNORECASE) else "BSD-2-Clause"
