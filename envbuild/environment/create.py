"""An environment from a lock: fetch, claim the prefix, link, byte code, pip; whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from envbuild.environment import steps
from envbuild.environment.conflicts import check_links, check_packages, check_unpacked
from envbuild.environment.contents import Brought
from envbuild.environment.prefix import Claim, claim, prefix_error, refuse_taken
from envbuild.environment.records import link_scripts, write_history, write_records
from envbuild.errors import EnvbuildError
from envbuild.lock import CondaLock, CondaPackage, Indexes, sources_for
from envbuild.lock.conda.channels import CondaChannels
from envbuild.lock.conda.sources import conda_environ, wanted_packages
from envbuild.progress import Progress
from envbuild.store import Http, Store, Wanted, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What making an environment needs of this machine. ``jobs`` counts downloads and processes."""

    store: Store
    channels: CondaChannels
    indexes: Indexes
    jobs: int
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new environment: where, how many packages, bytes that were fetched, seconds by stage, notes for a person."""

    prefix: Path
    packages: int
    bytes_fetched: int
    seconds: Mapping[str, float]
    notes: tuple[str, ...]


def create(lock: CondaLock, prefix: Path, means: Means) -> Created:
    """Make the environment of ``lock`` in ``prefix`` (checked by :func:`~envbuild.environment.check_path`).

    Everything is fetched and checked before the prefix is touched. Where anything fails, or is interrupted, the
    prefix is as it was before. A run that is killed leaves a prefix that says so, and that the next run makes anew.

    Raises:
        EnvbuildError: exit 2 (prefix), 3 (packages with different files of one name), 4 (network), 5 (wrong bytes,
            a package that cannot be linked, pip) or 7 (a full disk).
    """
    seconds: dict[str, float] = {}
    refuse_taken(prefix)
    with _timed(seconds, "fetch"):
        fetched = _fetch(lock, means)
        listed = check_packages(lock, means.store, means.progress)
    claimed = claim(prefix, means.progress)
    try:
        with _prefix_guarded(prefix):
            notes = _fill(claimed, lock, listed, means, seconds)
    except BaseException:
        claimed.give_up()
        raise
    return Created(
        prefix=prefix,
        packages=len(lock.packages),
        bytes_fetched=fetched,
        seconds={**seconds, "total": sum(seconds.values())},
        notes=notes,
    )


def size_to_fetch(lock: CondaLock, store: Store) -> int:
    """Bytes of the lock that the store lacks."""
    sizes = {item.sha256: item.size for item in lock.packages} | {item.sha256: item.size for item in lock.pip}
    return sum(size for sha256, size in sizes.items() if not store.has(sha256, size))


def _fill(
    claimed: Claim,
    lock: CondaLock,
    listed: list[tuple[CondaPackage, list[Brought]]],
    means: Means,
    seconds: dict[str, float],
) -> tuple[str, ...]:
    with _timed(seconds, "link"):
        steps.link(claimed, lock, means.store, means.progress)
        check_unpacked(listed, claimed.work / "packages")
        check_links(claimed.path, claimed.work)
    with _timed(seconds, "byte code"):
        compiled = steps.byte_code(claimed, lock, means.jobs, means.progress)
        from_packages = write_records(lock, claimed.path, compiled)
        write_history(lock, claimed.path)
    if lock.pip:
        with _timed(seconds, "pip"):
            steps.pip_install(claimed, lock, means.store, means.progress)
    notes = tuple(
        f"{name} has a script that conda would run after linking; envbuild runs none: "
        f"{claimed.path}/bin/.{name}-post-link.sh"
        for name in link_scripts(claimed.path)
    )
    with _timed(seconds, "finish"), means.progress.task("finish"):
        steps.seal(claimed, from_packages)
        steps.close(claimed)
    return notes


def _fetch(lock: CondaLock, means: Means) -> int:
    """Bring what the store lacks; bytes that came."""
    http = Http(environ=conda_environ(means.channels, means.indexes))
    packages = [package for package in lock.packages if not means.store.has(package.sha256, package.size)]
    wanted = wanted_packages(lock, packages, channels=means.channels, indexes=means.indexes)
    sdists = [item for item in lock.pip if not means.store.has(item.sha256, item.size)]
    if sdists:
        found = sources_for(lock, sdists, indexes=means.indexes, http=http, progress=means.progress)
        wanted += [
            Wanted(name=i.name, file=i.basename, sha256=i.sha256, size=i.size, sources=found[i.sha256])
            for i in sdists
        ]
    return fetch(means.store, wanted, http=http, jobs=max(4, means.jobs), progress=means.progress)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - started, 3)


@contextmanager
def _prefix_guarded(prefix: Path) -> Iterator[None]:
    try:
        yield
    except EnvbuildError:
        raise
    except OSError as error:
        raise prefix_error(error, prefix) from error
