"""Solving in this process: py-rattler, the channels' repodata, and nothing of this machine but where channels are."""

from __future__ import annotations

import asyncio
import datetime
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from envbuild.errors import EnvbuildError
from envbuild.lock.conda import refusal
from envbuild.lock.conda.channels import SUBDIRS, CondaChannels, canonical_url
from envbuild.lock.conda.folder import readable
from envbuild.lock.conda.model import CondaChannel, CondaPackage
from envbuild.lock.conda.records import to_package, virtual_packages

if TYPE_CHECKING:
    from rattler import Gateway, RepoDataRecord

_Result = TypeVar("_Result")


class Unsolvable(Exception):
    """No set of packages meets the specs: the solver's explanation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was solved: the packages by name, and their channels with the addresses that their records name."""

    packages: tuple[CondaPackage, ...]
    channels: tuple[CondaChannel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the solver is asked.

    ``channels`` are names in order of priority (strict: the first that has a name decides), ``virtual`` what the
    machine is supposed to have, ``before`` the time after which no package counts (RFC 3339, UTC), ``keep`` records
    to stay at where they still fit.
    """

    channels: tuple[str, ...]
    specs: tuple[str, ...]
    virtual: dict[str, str]
    before: str
    keep: tuple[RepoDataRecord, ...] = ()


class Solver:
    """One way to the channels; what was read of them stays in memory."""

    def __init__(self, channels: CondaChannels, cache: Path) -> None:
        """``cache`` is the folder where repodata is kept between calls."""
        self._channels = channels
        self._cache = cache
        self._gateway: Gateway | None = None
        self._places: dict[str, str] = {}

    def solve(self, question: Question) -> Answer:
        """Ask py-rattler.

        Raises:
            Unsolvable: no set of packages fits.
            EnvbuildError: exit 4, a channel cannot be reached; exit 5, it serves
                what is no repodata.
        """
        from rattler import solve

        records = self._run(
            question.channels,
            lambda: solve(
                [self._place(name) for name in question.channels],
                list(question.specs),
                gateway=self._opened(),
                platforms=list(SUBDIRS),
                locked_packages=list(question.keep),
                virtual_packages=virtual_packages(question.virtual),
                exclude_newer=datetime.datetime.fromisoformat(question.before),
                timestamp_policy="allow-missing",
                channel_relations="disabled",
            ),
        )
        return self._answer(question, records)

    def fits(self, question: Question) -> bool:
        """Whether there is an answer."""
        try:
            self.solve(question)
        except Unsolvable:
            return False
        return True

    def names(self, channels: Sequence[str]) -> list[str]:
        """The names of all packages that the channels have."""
        places = [self._place(name) for name in channels]
        result = self._run(channels, lambda: self._opened().names(places, list(SUBDIRS)))
        return sorted(name.normalized for name in result.names)

    def records(self, channels: Sequence[str], name: str) -> list[RepoDataRecord]:
        """Every record of one name, whatever its build; none where the channels do not have it."""
        places = [self._place(channel) for channel in channels]
        result = self._run(
            channels, lambda: self._opened().query(places, list(SUBDIRS), [name], recursive=False)
        )
        return [record for part in result for record in part if record.name.normalized == name]

    def _place(self, name: str) -> str:
        """Where py-rattler reads the channel."""
        if name not in self._places:
            self._places[name] = readable(self._channels.place(name), self._cache)
        return self._places[name]

    def _opened(self) -> Gateway:
        from rattler import Gateway

        if self._gateway is None:
            self._gateway = Gateway(cache_dir=self._cache, client=self._channels.client())
        return self._gateway

    def _run(self, channels: Sequence[str], work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        from rattler.exceptions import SolverError

        async def awaited() -> _Result:
            return await work()

        try:
            return run_to_the_end(awaited())
        except SolverError as error:
            raise Unsolvable(str(error)) from None
        except EnvbuildError:
            raise
        except Exception as error:
            raise refusal.of_channel(self._channels, channels, error) from None

    def _answer(self, question: Question, records: Sequence[RepoDataRecord]) -> Answer:
        """The records as packages, with the channel of each and the address that its records name."""
        names = {self._place(name): name for name in question.channels}
        urls: dict[str, str] = {}
        packages = []
        for record in records:
            name = names.get(_slashed(record.channel)) or question.channels[0]
            refusal.check_record(record, self._channels.shown(name))
            packages.append(to_package(record, name))
            urls.setdefault(name, self._base(name, record))
        channels = tuple(
            CondaChannel(name=name, url=urls[name]) for name in question.channels if name in urls
        )
        return Answer(packages=tuple(sorted(packages, key=lambda item: item.name)), channels=channels)

    def _base(self, name: str, record: RepoDataRecord) -> str:
        """The channel's own address: what its repodata says (CEP 15), else what its name stands for."""
        tail = f"{record.subdir}/{record.file_name}"
        url = record.url
        if not url.startswith(self._place(name)) and url.endswith(tail):
            return url[: -len(tail)]
        return canonical_url(name)


def run_to_the_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run one of py-rattler's coroutines, and wait until its threads have let go of the interpreter.

    They hand a result over by ``call_soon_threadsafe`` and may still be in it when ``asyncio.run`` returns; an
    interpreter that ends then is aborted ("PyGILState_Release: thread state … must be current"). With py-rattler 0.28
    that befell 2 of 40 short programs that solved and 6 of 40 that failed to; none since. A thread in Python code has a
    frame, and one that has none is done with it.
    """
    try:
        return asyncio.run(work)
    finally:
        limit = time.monotonic() + 5
        while time.monotonic() < limit:
            time.sleep(0.002)
            if sys._current_frames().keys() <= {thread.ident for thread in threading.enumerate()}:
                break


def _slashed(url: str | None) -> str:
    return "" if url is None else url.rstrip("/") + "/"
