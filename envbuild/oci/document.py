"""JSON documents from outside: parsed once, bounded in depth, and every descriptor of a manifest checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from envbuild.oci.digest import is_digest

DEPTH = 100
"""Lists and objects inside each other at most: what walks a document later need not count."""
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+")
"""Any digest of the specification (descriptor.md, "Digests"); of sha256 the form is known exactly."""


@contextmanager
def bounded() -> Iterator[None]:
    """Turn what a parser does at its own limits (nesting, numbers) into a ``ValueError``, as for other bad input."""
    try:
        yield
    except RecursionError:
        raise ValueError("lists or objects are nested too deep") from None
    except OverflowError:
        raise ValueError("a number is too big") from None


def read_json(data: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, is nested deeper than :data:`DEPTH`, or has ``NaN`` or ``Infinity``, which JSON has not.
    """
    with bounded():
        return check_depth(json.loads(data, parse_constant=_no_constant))


def read_object(data: bytes | str) -> dict[str, Any]:
    """The value of a JSON text that must be an object. Raises ``ValueError`` as :func:`read_json`."""
    value = read_json(data)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def check_depth(value: Any) -> Any:
    """``value``, if nothing in it lies deeper than :data:`DEPTH`; else ``ValueError``."""
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise ValueError(f"lists or objects are nested deeper than {DEPTH}")


def check_descriptors(document: Mapping[str, object]) -> None:
    """See that every descriptor of a manifest or index names what a digest can name (descriptor.md).

    Raises:
        ValueError: one does not.
    """
    for key in ("manifests", "layers", "blobs"):
        entries = document.get(key)
        if entries is not None and not isinstance(entries, list):
            raise ValueError(f"$.{key} is not a list")
        for number, entry in enumerate(entries or ()):
            _check_descriptor(entry, f"$.{key}[{number}]")
    for key in ("config", "subject"):
        if document.get(key) is not None:
            _check_descriptor(document[key], f"$.{key}")


def _check_descriptor(entry: object, where: str) -> None:
    digest = entry.get("digest") if isinstance(entry, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{where}.digest is not a digest")
    if digest.startswith("sha256:") and not is_digest(digest):
        raise ValueError(f"{where}.digest is not a sha256 digest")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
