"""Where the files of a lock are to be had now: the lock itself names no address."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.conda.model import CondaLock
from envbuild.lock.indexes import Indexes
from envbuild.lock.model import Artifact, Lock
from envbuild.lock.python import files, simple, uv
from envbuild.progress import Progress
from envbuild.store import Http, Source

_PYTHON = "Python's index"
_DEBIAN = "Debian's mirror"
_MIRROR = "the artifact mirror"


def sources_for(
    lock: Lock | CondaLock, artifacts: Sequence[Artifact], *, indexes: Indexes, http: Http, progress: Progress
) -> dict[str, tuple[Source, ...]]:
    """The sources of each artifact, in the order to ask them, by sha256.

    First the artifact mirror, if one is configured (``<mirror>/<sha256>/<file>``, then ``<mirror>/<file>`` with
    the bare file name); then Python's index or Debian's mirror. An index that cannot be read is an error only if
    there is no artifact mirror. A wheel that was built (``index`` is ``built``) is to be had from a mirror only.

    Args:
        lock: whose artifacts they are.
        artifacts: what the store lacks.
        indexes: where this machine finds packages.
        http: the connections.
        progress: what is going on.

    Raises:
        EnvbuildError: exit 4, the index cannot be read or no longer has a file; exit 2, no mirror of Debian is known.
    """
    found: dict[str, list[Source]] = {item.sha256: _mirrored(item, indexes) for item in artifacts}
    python = [item for item in artifacts if item.index == "python"]
    if python:
        with progress.task("ask for addresses", total=len(python), unit="files") as task:
            addresses = _python(lock, python, indexes, http, progress)
            task.advance(len(python))
        for item in python:
            if item.sha256 in addresses:
                found[item.sha256].append(Source(url=addresses[item.sha256], headers={}, label=_PYTHON))
    for item in artifacts:
        if item.index.startswith("debian/"):
            found[item.sha256] += _debian(item, indexes)
    for item in artifacts:
        if not found[item.sha256] and item.index != "built":
            raise _nowhere(item)
    return {sha256: tuple(sources) for sha256, sources in found.items()}


def _mirrored(item: Artifact, indexes: Indexes) -> list[Source]:
    if not indexes.artifacts:
        return []
    paths = (f"{item.sha256}/{quote(item.basename)}", quote(item.basename))
    return [Source(url=f"{indexes.artifacts}/{path}", headers={}, label=_MIRROR) for path in paths]


def _debian(item: Artifact, indexes: Indexes) -> list[Source]:
    suite = item.index.split("/")[1]
    address = indexes.debian_security if suite.endswith("-security") else indexes.debian
    return [Source(url=f"{address}/{quote(item.file)}", headers={}, label=_DEBIAN)] if address else []


def _python(
    lock: Lock | CondaLock, artifacts: Sequence[Artifact], indexes: Indexes, http: Http, progress: Progress
) -> dict[str, str]:
    """Addresses by sha256: of wheels by one question to uv, of the rest from the simple API."""
    urls = indexes.python
    try:
        wanted = {item.sha256 for item in artifacts}
        offered = _asked_of_uv([item for item in artifacts if item.kind == "wheel"], lock, indexes)
        for item in artifacts:
            if item.sha256 not in offered:
                for file in simple.project(item.name, urls, http):
                    if file.sha256 is not None:
                        offered.setdefault(file.sha256, file.url)
    except EnvbuildError:
        if not indexes.artifacts:
            raise
        progress.note(f"{_PYTHON} cannot be read: only {_MIRROR} is asked.")
        return {}
    return {sha256: files.with_credentials(url, urls) for sha256, url in offered.items() if sha256 in wanted}


def _asked_of_uv(wheels: Sequence[Artifact], lock: Lock | CondaLock, indexes: Indexes) -> dict[str, str]:
    """Addresses of wheels. Two versions of one name cannot be asked for at once, so the rest is left out."""
    names = {item.name: item for item in wheels}
    lines = [f"{item.name}=={item.version}\n" for item in names.values()]
    recipe_python = lock.recipe.get("python")
    python = str(recipe_python.get("version", "3.11")) if isinstance(recipe_python, dict) else "3.11"
    if not lines:
        return {}
    try:
        answer = uv.solve(
            uv.Question(requirements="".join(sorted(lines)), python=python, dependencies=False),
            indexes.environ,
        )
    except uv.Unsolvable:
        return {}  # one of them is gone: the simple API tells which are left
    return {file.sha256: file.url for package in answer for file in package.wheels if file.sha256 is not None}


def _nowhere(item: Artifact) -> EnvbuildError:
    if item.index.startswith("debian/"):
        return EnvbuildError(
            "no-debian-mirror", f"no mirror of Debian is known, and {item.basename} is not in the store",
            hint="Set ENVBUILD_DEBIAN_MIRROR to the address that dists/ and pool/ lie under.", exit=Exit.USAGE,
        )  # fmt: skip
    return EnvbuildError(
        "file-gone", f"{_PYTHON} no longer has {item.file} (sha256 {item.sha256})",
        hint="Set ENVBUILD_ARTIFACT_MIRROR to a copy that has it, or lock again with --upgrade.",
        exit=Exit.NETWORK, where=item.file,
    )  # fmt: skip
