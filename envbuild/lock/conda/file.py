"""``conda.lock.json``: written with one package a line, read with every field checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envbuild.lock.conda.model import FORMAT, PLATFORM, CondaLock, CondaPackage, dependency_names
from envbuild.lock.conda.records import address
from envbuild.lock.file import artifact_problems
from envbuild.lock.text import decode, is_time, lock_error, lock_text, read_bytes, unknown
from envbuild.oci.digest import is_sha256
from envbuild.recipe.load import is_ref

_MD5 = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
_WORD = re.compile(r"[A-Za-z0-9_.+!~-]+")
_VIRTUAL = re.compile(r"__[a-z0-9_]+")
_VIRTUAL_VALUE = re.compile(r"[A-Za-z0-9_.+!~-]+(=[A-Za-z0-9_.+!~-]+)?")
_URL = re.compile(r"https?://[^\s/@?#]+(/[^\s?#]*)?/")
_MOST = 1 << 53
_END_OF_TIME = 253_402_300_800_000
"""The year 10000, in milliseconds since 1970."""
_SUFFIXES = (".conda", ".tar.bz2")


def conda_lock_bytes(lock: CondaLock) -> bytes:
    """The file's content: UTF-8 JSON, keys in the model's order, one package a line; what is empty is left out."""
    return lock_text(_plain(lock))


def read_conda_lock(path: Path) -> CondaLock:
    """Read and check a conda lock.

    Raises:
        EnvbuildError: exit 3, with the file and the JSON path: the file is not there, is cut off, was made by a newer
            envbuild or for another platform, or holds something that cannot be.
    """
    return parse_conda_lock(read_bytes(path), path)


def parse_conda_lock(data: bytes, path: Path) -> CondaLock:
    """The conda lock in ``data``; ``path`` is for messages. Errors as for :func:`read_conda_lock`."""
    document, lock = decode(data, path, CondaLock, FORMAT)
    if lock.platform != PLATFORM:
        ref = f"{path.parent.parent.name}:{path.parent.name}"
        raise lock_error(
            "lock-for-another-platform", f"the lock is for {lock.platform}, envbuild makes {PLATFORM} only", path,
            hint=f"Take the committed one from version control, or run `envbuild lock {ref} --only conda`.",
        )  # fmt: skip
    problem = unknown(document, _plain(lock), "$") or next(_problems(lock), None)
    if problem:
        raise lock_error("lock-wrong", problem, path)
    return lock


def _plain(lock: CondaLock) -> dict[str, Any]:
    value = asdict(lock)
    for item in (*value["packages"], *value["pip"]):
        for key in [key for key, member in item.items() if member is None or member == ()]:
            del item[key]
    return value


def _problems(lock: CondaLock) -> Iterator[str]:
    """What cannot be in a well-typed lock."""
    if not is_ref(lock.ref):
        yield f"$.ref is {json.dumps(str(lock.ref))}, which is no reference to a recipe (NAME:TAG)"
    if not is_time(lock.exclude_newer):
        yield f"$.exclude_newer is {json.dumps(lock.exclude_newer)}, but must be YYYY-MM-DDTHH:MM:SSZ"
    for name, text in lock.virtual.items():
        if not _VIRTUAL.fullmatch(name) or not _VIRTUAL_VALUE.fullmatch(text):
            yield f"$.virtual.{name} is {json.dumps(text)}, but must be version or version=build of a virtual package"
    yield from _channel_problems(lock)
    yield from _packages_problems(lock)
    for position, artifact in enumerate(lock.pip):
        where = f"$.pip[{position}]"
        for problem in artifact_problems(artifact):
            yield f"{where}.{problem}"
        if artifact.kind not in ("sdist", "wheel"):
            yield f"{where}.kind is {json.dumps(artifact.kind)}, but must be sdist or wheel"
        if artifact.index != "python":
            yield f"{where}.index is {json.dumps(artifact.index)}, but must be python"
        if artifact.name in {other.name for other in lock.pip[:position]}:
            yield f"{where}: {artifact.name} is there twice"
    yield from _unreadable(lock)


def _unreadable(lock: CondaLock) -> Iterator[str]:
    """What conda itself could not read: versions, builds, MatchSpecs, addresses."""
    from rattler import BuildString, MatchSpec, Version

    versions = [(f"$.virtual.{name}", text.partition("=")[0]) for name, text in lock.virtual.items()]
    builds = [(f"$.virtual.{name}", text.partition("=")[2] or "0") for name, text in lock.virtual.items()]
    builds += [(f"$.packages[{n}] ({item.name}): build", item.build) for n, item in enumerate(lock.packages)]
    addresses = [(f"$.channels[{n}].url", channel.url) for n, channel in enumerate(lock.channels)]
    specs = [(f"$.specs[{position}]", text) for position, text in enumerate(lock.specs)]
    for position, package in enumerate(lock.packages):
        where = f"$.packages[{position}] ({package.name})"
        versions.append((f"{where}: version", package.version))
        specs += [(f"{where}: {text}", text) for text in (*package.depends, *package.constrains)]
    for (where, text), kind in (
        *((item, Version) for item in versions),
        *((item, BuildString) for item in builds),
        *((item, MatchSpec) for item in specs),
        *((item, address) for item in addresses),
    ):
        try:
            kind(text)
        except Exception as error:  # py-rattler has a type for each, and none in common
            yield f"{where} is {json.dumps(text)}, which conda cannot read: {error}"


def _channel_problems(lock: CondaLock) -> Iterator[str]:
    for position, channel in enumerate(lock.channels):
        where = f"$.channels[{position}]"
        if not _URL.fullmatch(channel.url):
            yield f"{where}.url is {json.dumps(channel.url)}, which is not an http address that ends with /"
        if not channel.name.isprintable() or not channel.url.isprintable():
            yield f"{where} has a name or url that is no line of text"
        if channel.name in {other.name for other in lock.channels[:position]}:
            yield f"{where}: {channel.name} is there twice"


def _packages_problems(lock: CondaLock) -> Iterator[str]:
    names = [package.name for package in lock.packages]
    channels = {channel.name for channel in lock.channels}
    for position, package in enumerate(lock.packages):
        where = f"$.packages[{position}] ({package.name})"
        for problem in _package_problems(package):
            yield f"{where}: {problem}"
        if package.channel not in channels:
            yield f"{where}: channel is {json.dumps(package.channel)}, which $.channels does not have"
        if position and names[position - 1] >= package.name:
            twice = names[position - 1] == package.name
            yield f"{where} {'is there twice' if twice else 'does not stand in order of names'}"
        for needed in dependency_names(package):
            if needed not in names:
                yield f"{where}: depends on {needed}, which the lock does not hold"
    if "python" not in names:
        yield "$.packages holds no python"


def _package_problems(package: CondaPackage) -> Iterator[str]:
    for field, pattern in (("name", _NAME), ("version", _WORD), ("build", _WORD)):
        text = getattr(package, field)
        if not pattern.fullmatch(text):
            yield f"{field} is {json.dumps(text)}"
    if not is_sha256(package.sha256):
        yield f"sha256 is {json.dumps(package.sha256)}, but must be 64 lower-case hex digits"
    if package.md5 is not None and not _MD5.fullmatch(package.md5):
        yield f"md5 is {json.dumps(package.md5)}, but must be 32 lower-case hex digits"
    if package.timestamp is not None and not 0 <= package.timestamp < _END_OF_TIME:
        yield f"timestamp is {package.timestamp}, but must be milliseconds since 1970"
    if not 0 < package.size < _MOST:
        yield f"size is {package.size}, but must be positive"
    if not 0 <= package.build_number < _MOST:
        yield f"build_number is {package.build_number}"
    if package.subdir not in (PLATFORM, "noarch"):
        yield f"subdir is {json.dumps(package.subdir)}, but must be {PLATFORM} or noarch"
    expected = f"{package.name}-{package.version}-{package.build}"
    if package.file not in {expected + suffix for suffix in _SUFFIXES}:
        yield f"file is {json.dumps(package.file)}, but must be {expected}.conda or .tar.bz2"
    if package.noarch not in (None, "python", "generic"):
        yield f"noarch is {json.dumps(package.noarch)}, but must be python or generic"
    if any(not spec.strip() for spec in (*package.depends, *package.constrains)):
        yield "depends or constrains holds an empty text"
