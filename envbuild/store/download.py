"""One file: from its sources, in order, into its place."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import CHUNK, open_regular
from envbuild.oci.disk import Stopped
from envbuild.store.faults import Fault
from envbuild.store.http import Http, Response
from envbuild.store.network import is_local
from envbuild.store.part import Part

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a file can be had.

    Args:
        url: ``http:``, ``https:`` or ``file:``; may hold credentials.
        headers: sent with the request, and only to this host.
        label: what messages call the source (an index's alias); never an address with credentials.
        authorize: asked for more headers before each request, where they expire (registry tokens).
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    label: str
    authorize: Callable[[], Mapping[str, str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file to fetch: ``name`` and ``file`` for messages, ``sha256`` (64 hex digits), ``size`` in bytes.

    ``changed`` is the hint where the sources have other bytes; the default is what helps with the indexes of a lock.
    """

    name: str
    file: str
    sha256: str
    size: int | None
    sources: tuple[Source, ...]
    changed: str = (
        "the file was replaced at its source, or changed on the way: ask another index or mirror; "
        "if the new file is the one you want, `envbuild lock` takes it"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A source that gave other bytes."""

    sha256: str
    size: int
    more: bool

    def __str__(self) -> str:
        amount = f"more than {self.size}" if self.more else str(self.size)
        return f"gave sha256 {self.sha256} ({amount} bytes)"


class Tally(Protocol):
    """Who counts the bytes of all files."""

    def came(self, wanted: Wanted, offset: int, amount: int) -> None:
        """``amount`` bytes came, which end at ``offset`` of the file."""

    def announced(self, wanted: Wanted, size: int) -> None:
        """The source says how long the file is."""


class Download:
    """One file on its way to ``final``. The caller holds the file's lock; :meth:`abort` comes from other threads."""

    def __init__(
        self,
        wanted: Wanted,
        part: Part,
        *,
        http: Http,
        tally: Tally,
        stop: threading.Event,
    ) -> None:
        self._wanted = wanted
        self._part = part
        self._http = http
        self._tally = tally
        self._stop = stop
        self._response: Response | None = None
        self._resumed = False

    def run(self, final: Path) -> None:
        """Fetch, verify, and name the file ``final``.

        Raises:
            EnvbuildError: every source failed (exit 4), or those that answered gave other bytes (exit 5).
            Stopped: the fetch was stopped.
        """
        outcomes: list[tuple[Source, Fault | Wrong]] = []
        if self._right():
            self._part.finish(final)
            return
        for source in self._wanted.sources:
            outcome = self._from(source)
            if outcome is None:
                self._part.finish(final)
                return
            outcomes.append((source, outcome))
        raise _verdict(self._wanted, outcomes, kept=self._part.offset)

    def abort(self) -> None:
        """Wake the thread that waits for bytes."""
        if (response := self._response) is not None:
            response.abort()

    def _right(self) -> bool:
        size = self._wanted.size
        return size in {None, self._part.offset} and self._part.sha256 == self._wanted.sha256

    def _from(self, source: Source) -> Fault | Wrong | None:
        effort = self._http.patience.start(stop=self._stop.is_set)
        best = self._part.offset
        fresh = False
        while True:
            try:
                self._attempt(source)
            except Fault as fault:
                if self._stop.is_set():
                    raise Stopped from fault
                if self._right():
                    return None  # every byte came before the connection failed
                if self._part.offset - best >= self._http.pace.least:
                    effort.progressed()
                    best = self._part.offset
                if effort.again(fault):
                    continue
                if self._stop.is_set():
                    raise Stopped from fault
                return fault
            if self._right():
                return None
            size = self._wanted.size
            wrong = Wrong(
                sha256=self._part.sha256,
                size=self._part.offset if size is None else min(self._part.offset, size),
                more=size is not None and self._part.offset > size,
            )
            self._part.restart()
            if not self._resumed or fresh:
                return wrong
            fresh = True  # two halves of different files, perhaps: once more from the first byte
            best = 0

    def _attempt(self, source: Source) -> None:
        """One request; returns when the body ended as it should.

        Raises:
            Fault: it did not.
        """
        self._resumed = self._part.offset > 0
        if is_local(source.url):
            self._take(_local_chunks(source.url, self._part.offset))
            return
        headers = dict(source.headers)
        if source.authorize is not None:
            headers.update(source.authorize())
        if self._part.offset:
            headers["Range"] = f"bytes={self._part.offset}-"
            if (validator := self._part.validator(source.url)) is not None:
                headers["If-Range"] = validator
        with self._http.open(source.url, headers=headers) as response:
            self._response = response
            try:
                self._receive(source, response)
            finally:
                self._response = None

    def _receive(self, source: Source, response: Response) -> None:
        if response.status == 416:
            self._part.restart()
            raise Fault("refused to go on in the middle", retry=True, status=416)
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != self._part.offset:
                self._part.restart()
                raise Fault("answered with another part than was asked for", retry=True)
        elif response.status == 200:
            if self._part.offset:
                self._part.restart()
                self._resumed = False
            self._part.came_from(source.url, response.headers.get("ETag"))
        else:
            raise self._http.refusal(response)
        length = response.length
        if length is not None:
            self._tally.announced(self._wanted, self._part.offset + length)
        self._take(response.chunks())
        size = self._wanted.size
        if length is None and size is not None and self._part.offset < size:
            raise Fault("ended early", retry=True)

    def _take(self, chunks: Iterator[bytes]) -> None:
        for chunk in chunks:
            if self._stop.is_set():
                raise Stopped
            self._part.write(chunk)
            self._tally.came(self._wanted, self._part.offset, len(chunk))
            if self._wanted.size is not None and self._part.offset > self._wanted.size:
                return


def _local_chunks(url: str, offset: int) -> Iterator[bytes]:
    try:
        with open_regular(Path(unquote(urlsplit(url).path))) as stream:
            stream.seek(offset)
            while chunk := stream.read(CHUNK):
                yield chunk
    except ValueError as error:
        raise Fault("has an address that is not valid", retry=False) from error
    except OSError as error:
        status = 404 if isinstance(error, FileNotFoundError) else None
        raise Fault(f"cannot be read: {error.strerror}", retry=False, status=status) from error


def _verdict(wanted: Wanted, outcomes: list[tuple[Source, Fault | Wrong]], *, kept: int) -> EnvbuildError:
    """One error from what every source did."""
    told = "\n".join(f"  {source.label} {outcome}" for source, outcome in outcomes)
    where = wanted.file
    if any(isinstance(outcome, Wrong) for _, outcome in outcomes):
        size = "" if wanted.size is None else f" ({wanted.size} bytes)"
        return EnvbuildError(
            "wrong-hash",
            f"{wanted.name}: no source has the right file\n  expected sha256 {wanted.sha256}{size}\n{told}",
            hint=wanted.changed,
            exit=Exit.VERIFY,
            where=where,
        )
    faults = [outcome for _, outcome in outcomes if isinstance(outcome, Fault)]
    if not faults:
        message, hint = "no source is known", "run `envbuild doctor`: it lists the indexes and mirrors in use"
        return EnvbuildError(
            "no-source", f"{wanted.name}: {message}", hint=hint, exit=Exit.NETWORK, where=where
        )
    if all(fault.status in {404, 410} for fault in faults):
        hint = "the file is no longer there: name a mirror that has it, or take another version with `envbuild lock`"
        return EnvbuildError(
            "not-found", f"{wanted.name}:\n{told}", hint=hint, exit=Exit.NETWORK, where=where
        )
    if all(fault.status in {401, 403} for fault in faults):
        hint = faults[0].advice or "give credentials in the index's address or in ~/.netrc"
        return EnvbuildError(
            "not-allowed", f"{wanted.name}:\n{told}", hint=hint, exit=Exit.NETWORK, where=where
        )
    hint = next((fault.hint for fault in faults if fault.retry), faults[0].hint)
    if kept:
        told += f"\n  {kept} bytes are kept: running again goes on from there"
    return EnvbuildError(
        "source-failed", f"{wanted.name}:\n{told}", hint=hint, exit=Exit.NETWORK, where=where
    )
