"""RECORD and entry points (PyPA specifications "Recording installed projects" and "Entry points")."""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import posixpath
from collections.abc import Iterable

from installer.records import InvalidRecordEntry, parse_record_file
from installer.utils import parse_entrypoints

from envbuild.layers.format import SITE, VENV
from envbuild.layers.refusal import invalid

_STRONG = ("sha256", "sha384", "sha512")
PYTHON_PATH = f"/{VENV}/bin/python"


def hash_of(content: bytes) -> str:
    """The RECORD spelling of a sha256."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def hex_of(hash: str) -> str | None:
    """The hex digits of a RECORD sha256; ``None`` where it is none."""
    name, _, text = hash.partition("=")
    text = text.rstrip("=")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    return raw.hex() if name == "sha256" and len(raw) == 32 else None


def parse_record(wheel: str, content: bytes) -> dict[str, tuple[str, str]]:
    """Hash and size (both as written, may be empty) by entry name. Directories are left out.

    Raises:
        EnvbuildError: ``wheel-record``: not CSV of three columns, a name twice, or a hash weaker than sha256.
    """
    rows: dict[str, tuple[str, str]] = {}
    try:
        for name, hash, size in parse_record_file(io.StringIO(content.decode(), newline="")):
            if hash and hash.partition("=")[0] not in _STRONG:
                raise invalid(
                    wheel, "wheel-record", f"RECORD has the hash {hash!r} for {name!r}; sha256 is the least"
                )
            if rows.setdefault(name, (hash, size)) != (hash, size):
                raise invalid(wheel, "wheel-record", f"RECORD has {name!r} twice, with two hashes")
    except (InvalidRecordEntry, UnicodeDecodeError, csv.Error) as error:
        raise invalid(wheel, "wheel-record", f"RECORD cannot be read: {error}") from None
    return {name: row for name, row in rows.items() if not name.endswith("/")}


def write_record(rows: Iterable[tuple[str, str, int]], *, own: str) -> bytes:
    """The installed project's RECORD.

    Args:
        rows: image path, hash, size of every installed file but RECORD.
        own: RECORD's image path, whose row has neither.
    """
    lines = [(posixpath.relpath(path, SITE), hash, str(size)) for path, hash, size in rows]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows(sorted([*lines, (posixpath.relpath(own, SITE), "", "")]))
    return stream.getvalue().encode()


def launchers(wheel: str, content: bytes) -> dict[str, bytes]:
    """The commands that ``entry_points.txt`` declares: name and content of a script for each.

    Raises:
        EnvbuildError: ``wheel-entry-points``: the file cannot be read.
    """
    try:
        return {
            name: _LAUNCHER.format(
                python=PYTHON_PATH, module=module, first=attr.split(".")[0], call=attr
            ).encode()
            for name, module, attr, _ in parse_entrypoints(content.decode())
        }
    except (configparser.Error, AssertionError, AttributeError, ValueError) as error:
        text = f"entry_points.txt cannot be read: {error or 'a value is not module:function'}"
        raise invalid(wheel, "wheel-entry-points", text) from None


_LAUNCHER = """\
#!{python}
import sys

from {module} import {first}

if __name__ == "__main__":
    sys.exit({call}())
"""


def with_shebang(content: bytes) -> bytes:
    """A script of the ``scripts`` scheme that begins with ``#!python``, for the image's interpreter."""
    return f"#!{PYTHON_PATH}\n".encode() + content.partition(b"\n")[2]
