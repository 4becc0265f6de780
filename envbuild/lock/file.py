"""``lock.json``: written with one artifact a line, read with every field checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import FORMAT, Artifact, Lock
from envbuild.oci.digest import is_digest
from envbuild.oci.layer import Layer

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_INDEX = {
    "wheel": re.compile(r"python|built"),
    "sdist": re.compile(r"python"),
    "deb": re.compile(r"debian/[a-z-]+/[a-z-]+"),
}
_FILE = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._+~!%:-]+(/[A-Za-z0-9._+~!%:-]+)*")


def lock_bytes(lock: Lock) -> bytes:
    """The file's content: UTF-8 JSON, keys in the model's order, one artifact or layer a line."""
    return ("\n".join(_object(_plain(lock), "")) + "\n").encode()


def read_lock(path: Path) -> Lock:
    """Read and check a lock.

    Raises:
        EnvbuildError: exit 3, with the JSON path: the file is not there, is cut off, was made by a newer envbuild,
            or holds something that cannot be (a hash of the wrong form, a file twice).
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _error("no-lock", "there is no lock", path) from None
    except OSError as error:
        raise _error(
            "lock-unreadable", f"the lock cannot be read: {error.strerror}", path, hint="Check its mode."
        ) from None
    return parse_lock(data, path)


def parse_lock(data: bytes, path: Path) -> Lock:
    """The lock in ``data``; ``path`` is for messages. Errors as for :func:`read_lock`."""
    try:
        document = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        cut = "is cut off" if "truncated" in str(error) else f"is not JSON: {error}"
        raise _error("lock-broken", f"the lock {cut}", path) from None
    if not isinstance(document, dict):
        raise _error("lock-broken", "the lock is not a JSON object", path)
    number = document.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise _error(
            "lock-too-new", f"the lock has format {number}, this envbuild knows up to {FORMAT}", path,
            hint="Update envbuild: `pip install --upgrade envbuild`.",
        )  # fmt: skip
    if number != FORMAT:
        raise _error("lock-wrong", f"$.format is {json.dumps(number)}, but must be {FORMAT}", path)
    try:
        lock = msgspec.convert(document, Lock)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `")
        raise _error("lock-wrong", f"{where.rstrip('`') or '$'}: {message}", path) from None
    problem = _unknown(document, _plain(lock), "$") or _problem(lock)
    if problem:
        raise _error("lock-wrong", problem, path)
    return lock


def _plain(lock: Lock) -> dict[str, Any]:
    value = asdict(lock)

    def shorten(artifact: dict[str, Any] | None) -> None:
        if artifact is not None and artifact["uploaded"] is None:
            del artifact["uploaded"]

    native = value["native"]
    for artifact in (*value["debian"], *value["python"]):
        shorten(artifact)
    if native is not None:
        for artifact in (native["source"], native["wheel"], *native["toolchain"], *native["build"]):
            shorten(artifact)
    return value


def _object(value: dict[str, Any], indent: str) -> Iterator[str]:
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


def _unknown(seen: object, known: object, where: str) -> str | None:
    """The path of the first member that the model does not have."""
    if isinstance(seen, dict) and isinstance(known, dict):
        for key, value in seen.items():
            if key not in known:
                if key == "uploaded" and value is None:
                    continue
                return f"{where}.{key} is not a member of a lock"
            problem = _unknown(value, known[key], f"{where}.{key}")
            if problem:
                return problem
    if isinstance(seen, list) and isinstance(known, list | tuple):
        for position, (left, right) in enumerate(zip(seen, known, strict=True)):
            problem = _unknown(left, right, f"{where}[{position}]")
            if problem:
                return problem
    return None


def _problem(lock: Lock) -> str | None:
    """The first thing in a well-typed lock that cannot be."""
    return next(_problems(lock), None)


def _problems(lock: Lock) -> Iterator[str]:
    if not _DATE.fullmatch(lock.resolved):
        yield f"$.resolved is {json.dumps(lock.resolved)}, but must be YYYY-MM-DD"
    if not _TIME.fullmatch(lock.created):
        yield f"$.created is {json.dumps(lock.created)}, but must be YYYY-MM-DDTHH:MM:SSZ"
    seen: dict[tuple[str, str], str] = {}
    for where, artifact in _artifacts(lock):
        for problem in _artifact_problems(artifact):
            yield f"{where}.{problem}"
        key = (where.partition("[")[0], artifact.name)
        if key in seen:
            yield f"{where}: {artifact.name} is there twice ({seen[key]} before)"
        seen[key] = where
    if lock.image:
        for name, digest in (("digest", lock.image.digest), ("config", lock.image.config)):
            if not is_digest(digest):
                yield f"$.image.{name} is {json.dumps(digest)}, which is not a sha256 digest"
        yield from _layer_problems(lock.image.layers)


def _layer_problems(layers: Iterable[Layer]) -> Iterator[str]:
    for position, layer in enumerate(layers):
        where = f"$.image.layers[{position}]"
        if not is_digest(layer.digest) or not is_digest(layer.diff_id):
            yield f"{where} has a digest that is not a sha256 digest"
        if layer.size <= 0:
            yield f"{where}.size is {layer.size}"


def _artifacts(lock: Lock) -> Iterator[tuple[str, Artifact]]:
    groups: list[tuple[str, tuple[Artifact, ...]]] = [("$.debian", lock.debian), ("$.python", lock.python)]
    if lock.native:
        groups += [("$.native.toolchain", lock.native.toolchain), ("$.native.build", lock.native.build)]
        yield "$.native.source", lock.native.source
        if lock.native.wheel:
            yield "$.native.wheel", lock.native.wheel
    for name, artifacts in groups:
        for position, artifact in enumerate(artifacts):
            yield f"{name}[{position}]", artifact


def _artifact_problems(artifact: Artifact) -> Iterator[str]:
    if not _SHA256.fullmatch(artifact.sha256):
        yield f"sha256 is {json.dumps(artifact.sha256)}, but must be 64 lower-case hex digits"
    if artifact.size <= 0:
        yield f"size is {artifact.size}, but must be positive"
    if not artifact.name or not artifact.version:
        yield "name and version must not be empty"
    if not _FILE.fullmatch(artifact.file):
        yield f"file is {json.dumps(artifact.file)}, which is not a plain relative path"
    if artifact.kind != "deb" and "/" in artifact.file:
        yield f"file is {json.dumps(artifact.file)}, but must be a file name"
    if not _INDEX[artifact.kind].fullmatch(artifact.index):
        yield f"index is {json.dumps(artifact.index)}, which no {artifact.kind} comes from"
    if artifact.uploaded is not None and not _TIME.fullmatch(artifact.uploaded):
        yield f"uploaded is {json.dumps(artifact.uploaded)}, but must be YYYY-MM-DDTHH:MM:SSZ"


def _error(id: str, message: str, path: Path, *, hint: str | None = None) -> EnvbuildError:
    ref = f"{path.parent.parent.name}:{path.parent.name}"
    if id == "no-lock":
        hint = f"Write it with `envbuild lock {ref}`."
    again = f"Take the committed one from version control, or delete it and run `envbuild lock {ref}`."
    return EnvbuildError(id, message, hint=hint or again, exit=Exit.INPUT, where=str(path))
