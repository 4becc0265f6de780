"""How a lock is written, and what reading it back has in common: JSON with one artifact or layer a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import read_regular
from envbuild.oci.document import bounded, check_depth

DATE = "%Y-%m-%d"
TIME = "%Y-%m-%dT%H:%M:%SZ"
_LIMIT = 64 << 20
_Model = TypeVar("_Model")


def lock_text(plain: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON with the keys in the given order; an object of short members stands on one line."""
    return ("\n".join(_object(plain, "")) + "\n").encode()


def decode(
    data: bytes,
    path: Path,
    model: type[_Model],
    newest: int,
    *,
    renew: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: document,
) -> tuple[dict[str, Any], _Model]:
    """A lock's JSON and the model of it.

    Args:
        data: the file's content.
        path: the file, for messages.
        model: what it must be.
        newest: the newest format that is known, and the only one that the model has.
        renew: makes a document of an older format, if it knows it, one of the newest.

    Raises:
        EnvbuildError: exit 3, with the JSON path: no JSON, cut off, another format, a member of a wrong type.
    """
    try:
        with bounded():
            document = check_depth(msgspec.json.decode(data))
    except ValueError as error:  # msgspec's own, and UnicodeDecodeError
        cut = "is cut off" if "truncated" in str(error) else f"is not JSON: {error}"
        raise lock_error("lock-broken", f"the lock {cut}", path) from None
    if not isinstance(document, dict):
        raise lock_error("lock-broken", "the lock is not a JSON object", path)
    document = renew(document)
    number = document.get("format")
    if isinstance(number, int) and number > newest:
        raise lock_error(
            "lock-too-new", f"the lock has format {number}, this envbuild knows up to {newest}", path,
            hint="Update envbuild: `git pull` and `pip install .` in its clone.",
        )  # fmt: skip
    if number != newest:
        raise lock_error("lock-wrong", f"$.format is {json.dumps(number)}, but must be {newest}", path)
    try:
        return document, msgspec.convert(document, model)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `")
        raise lock_error("lock-wrong", f"{where.rstrip('`') or '$'}: {message}", path) from None


def read_bytes(path: Path) -> bytes:
    """A lock's content.

    Raises:
        EnvbuildError: exit 3: it is not there, or cannot be read.
    """
    try:
        return read_regular(path, _LIMIT)
    except FileNotFoundError:
        raise lock_error("no-lock", "there is no lock", path) from None
    except OSError as error:
        raise lock_error(
            "lock-unreadable", f"the lock cannot be read: {error.strerror}", path, hint="Check its mode."
        ) from None


def is_time(text: str, form: str = TIME) -> bool:
    """Whether ``text`` is a moment that there is, written in this form and no other."""
    try:
        return datetime.strptime(text, form).strftime(form).rjust(len(text), "0") == text
    except ValueError:
        return False


def unknown(seen: object, known: object, where: str) -> str | None:
    """What is said of the first member that the model does not have; a member that is ``null`` may be left out."""
    if isinstance(seen, dict) and isinstance(known, dict):
        for key, value in seen.items():
            if key not in known:
                if value is None:
                    continue
                return f"{where}.{key} is not a member of a lock"
            problem = unknown(value, known[key], f"{where}.{key}")
            if problem:
                return problem
    if isinstance(seen, list) and isinstance(known, list | tuple):
        for position, (left, right) in enumerate(zip(seen, known, strict=True)):
            problem = unknown(left, right, f"{where}[{position}]")
            if problem:
                return problem
    return None


def lock_error(id: str, message: str, path: Path, *, hint: str | None = None) -> EnvbuildError:
    """The error about a lock file: exit 3."""
    ref = f"{path.parent.parent.name}:{path.parent.name}"
    if id == "no-lock":
        hint = f"Write it with `envbuild lock {ref}`."
    again = f"Take the committed one from version control, or delete it and run `envbuild lock {ref}`."
    return EnvbuildError(id, message, hint=hint or again, exit=Exit.INPUT, where=str(path))


def _object(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    """The lines of an object whose short members stand on one line each."""
    yield "{"
    inner = indent + "  "
    last = len(value) - 1
    for position, (key, member) in enumerate(value.items()):
        lines = list(_member(member, inner))
        lines[0] = f"{inner}{json.dumps(key)}: {lines[0]}"
        lines[-1] += "," if position != last else ""
        yield from lines
    yield indent + "}"


def _member(value: object, indent: str) -> Iterator[str]:
    if isinstance(value, dict) and any(isinstance(item, dict | list | tuple) for item in value.values()):
        yield from _object(value, indent)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        yield "["
        for position, item in enumerate(value):
            yield f"{indent}  {_line(item)}{',' if position != len(value) - 1 else ''}"
        yield indent + "]"
    else:
        yield _line(value)


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
