"""``lock.json``: written with one artifact a line, read with every field checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envbuild.lock.model import FORMAT, Artifact, Lock
from envbuild.lock.text import DATE, decode, is_time, lock_error, lock_text, read_bytes, unknown
from envbuild.oci.digest import is_digest, is_sha256
from envbuild.oci.layer import Layer
from envbuild.recipe.load import is_ref

_INDEX = {
    "wheel": re.compile(r"python|built"),
    "sdist": re.compile(r"python"),
    "deb": re.compile(r"debian/[a-z-]+/[a-z-]+"),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.:~!_-]*")
_LICENCE = re.compile(r"[^\x00-\x1f\x7f]+")
_FILE = re.compile(r"(?!-)(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._+~!%:-]+(/[A-Za-z0-9._+~!%:-]+)*")


def lock_bytes(lock: Lock) -> bytes:
    """The file's content: UTF-8 JSON, keys in the model's order, one artifact or layer a line."""
    return lock_text(_plain(lock))


def read_lock(path: Path) -> Lock:
    """Read and check a lock. One of format 1 is read as one whose image was not built yet (:func:`is_older`).

    Raises:
        EnvbuildError: exit 3, with the JSON path: the file is not there, is cut off, was made by a newer envbuild,
            or holds something that cannot be (a hash of the wrong form, a file twice).
    """
    return parse_lock(read_bytes(path), path)


def parse_lock(data: bytes, path: Path) -> Lock:
    """The lock in ``data``; ``path`` is for messages. Errors as for :func:`read_lock`."""
    document, lock = decode(data, path, Lock, FORMAT, renew=_renewed)
    problem = unknown(document, _plain(lock), "$") or _problem(lock)
    if problem:
        raise lock_error("lock-wrong", problem, path)
    return lock


def is_older(path: Path) -> bool:
    """Whether the lock at ``path`` is of a format before this one, so that its image must be built again.

    Raises:
        EnvbuildError: exit 3, as :func:`read_lock`.
    """
    read_lock(path)
    return int(json.loads(read_bytes(path))["format"]) < FORMAT


def _renewed(document: dict[str, Any]) -> dict[str, Any]:
    """A lock of format 1 as one of format 2: the same inputs, and the same operator made of them.

    What its image was goes: wheel layers have other bytes since layer format 2, so every digest is another one.
    """
    number = document.get("format")
    return {**document, "format": 2, "image": None} if type(number) is int and number == 1 else document


def _plain(lock: Lock) -> dict[str, Any]:
    value = asdict(lock)

    def shorten(artifact: dict[str, Any] | None) -> None:
        for name in ("uploaded", "licence"):
            if artifact is not None and artifact[name] is None:
                del artifact[name]

    for layer in value["image"]["layers"] if lock.image else ():
        for name in ("toc", "tar_size"):
            if layer[name] is None:
                del layer[name]
    native = value["native"]
    for artifact in (*value["debian"], *value["python"]):
        shorten(artifact)
    if native is not None:
        for artifact in (native["source"], native["wheel"], *native["toolchain"], *native["build"]):
            shorten(artifact)
    return value


def _problem(lock: Lock) -> str | None:
    """The first thing in a well-typed lock that cannot be."""
    return next(_problems(lock), None)


def _problems(lock: Lock) -> Iterator[str]:
    if not is_ref(lock.ref):
        yield f"$.ref is {json.dumps(str(lock.ref))}, which is no reference to a recipe (NAME:TAG)"
    yield from _text_problems(lock.recipe, "$.recipe")
    if not is_time(lock.resolved, DATE):
        yield f"$.resolved is {json.dumps(lock.resolved)}, but must be YYYY-MM-DD"
    if not is_time(lock.created):
        yield f"$.created is {json.dumps(lock.created)}, but must be YYYY-MM-DDTHH:MM:SSZ"
    seen: dict[tuple[str, str], str] = {}
    for where, artifact in _artifacts(lock):
        for problem in artifact_problems(artifact):
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


def _text_problems(value: object, where: str) -> Iterator[str]:
    """What is no line of text among the texts of a recipe."""
    if isinstance(value, str) and not value.isprintable():
        yield f"{where} is {json.dumps(value[:80])}, but must be one line of text"
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _text_problems(key, f"a key of {where}")
            yield from _text_problems(member, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for position, member in enumerate(value):
            yield from _text_problems(member, f"{where}[{position}]")


def _layer_problems(layers: Iterable[Layer]) -> Iterator[str]:
    for position, layer in enumerate(layers):
        where = f"$.image.layers[{position}]"
        if not layer.name.isprintable() or not all(_NAME.fullmatch(name) for name in layer.artifacts):
            yield f"{where} has an invalid name: {json.dumps([layer.name, *layer.artifacts])[:120]}"
        if not is_digest(layer.digest) or not is_digest(layer.diff_id):
            yield f"{where} has a digest that is not a sha256 digest"
        if layer.size <= 0:
            yield f"{where}.size is {layer.size}"
        if (layer.toc is None) != (layer.tar_size is None):
            yield f"{where}: toc and tar_size go together"
        elif layer.toc is not None and not is_digest(layer.toc):
            yield f"{where}.toc is {json.dumps(layer.toc)}, which is not a sha256 digest"
        elif layer.tar_size is not None and layer.tar_size <= 0:
            yield f"{where}.tar_size is {layer.tar_size}"


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


def artifact_problems(artifact: Artifact) -> Iterator[str]:
    """What cannot be in an artifact: ``member is …``, one for each."""
    if not is_sha256(artifact.sha256):
        yield f"sha256 is {json.dumps(artifact.sha256)}, but must be 64 lower-case hex digits"
    if artifact.size <= 0:
        yield f"size is {artifact.size}, but must be positive"
    if not artifact.name or not artifact.version:
        yield "name and version must not be empty"
    elif not _NAME.fullmatch(artifact.name) or not _VERSION.fullmatch(artifact.version):
        yield f"name and version are {json.dumps([artifact.name, artifact.version])}, which no package has"
    if not _FILE.fullmatch(artifact.file):
        yield f"file is {json.dumps(artifact.file)}, which is not a plain relative path"
    if artifact.kind != "deb" and "/" in artifact.file:
        yield f"file is {json.dumps(artifact.file)}, but must be a file name"
    if not _INDEX[artifact.kind].fullmatch(artifact.index):
        yield f"index is {json.dumps(artifact.index)}, which no {artifact.kind} comes from"
    if artifact.uploaded is not None and not is_time(artifact.uploaded):
        yield f"uploaded is {json.dumps(artifact.uploaded)}, but must be YYYY-MM-DDTHH:MM:SSZ"
    if artifact.licence is not None and not _LICENCE.fullmatch(artifact.licence):
        yield f"licence is {json.dumps(artifact.licence[:80])}, but must be one line of text"
