"""What must hold for every reader: an input gives a value or one :class:`EnvbuildError`, in bounded time."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

from fuzz_confined import ThereFailed
from fuzz_mutation import Make

from envbuild.errors import EnvbuildError, Exit

LONGEST = 10.0
"""Seconds of CPU after which an input counts as one that never ends."""
SLOW = 2.0
"""Seconds of CPU that no small input may take."""

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader of foreign bytes.

    ``read`` hands one input to it. ``answers`` are the exceptions of its own contract that its caller turns into an
    error (``NotElf``); everything else than these and :class:`EnvbuildError` is a crash.
    """

    name: str
    make: Make
    read: Callable[[bytes], object]
    answers: tuple[type[Exception], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Crash:
    """What an input did that it must not; ``at`` tells one kind of crash from another."""

    at: str
    told: str
    data: bytes


class Endless(BaseException):
    """An input that took more than :data:`LONGEST`."""


class Source:
    """Bytes as a file, without a disk: the same memory file, written anew for each input."""

    def __init__(self) -> None:
        self._handle = os.memfd_create("fuzz")
        self.path = Path(f"/proc/self/fd/{self._handle}")

    def __call__(self, data: bytes) -> Path:
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, data, 0)
        return self.path


def attempt(reader: Reader, data: bytes) -> tuple[Crash | None, bool]:
    """Hand one input to a reader: what it did wrong, if anything, and whether it refused the input."""
    started = time.thread_time()
    refused = True
    try:
        reader.read(data)
        refused = False
    except EnvbuildError as error:
        wrong = _wrong(error)
        if wrong:
            return Crash(at=f"error {error.id}: {wrong}", told=repr(error.to_dict()), data=data), True
    except reader.answers:
        pass
    except (Exception, Endless) as error:
        told = "".join(traceback.format_exception(error, limit=-8))
        return Crash(at=_at(error), told=told, data=data), True
    spent = time.thread_time() - started
    if spent > SLOW:
        return Crash(at="slow", told=f"{spent:.1f} seconds for {len(data)} bytes", data=data), refused
    return None, refused


def _wrong(error: EnvbuildError) -> str:
    """What an error lacks."""
    if not _ID.fullmatch(error.id):
        return "its id is not in kebab-case"
    if not error.message.strip() or not error.hint.strip():
        return "it has no message or no hint"
    if not isinstance(error.exit, Exit) or error.exit in (Exit.DONE, Exit.BUG):
        return "its exit code is none of a failure"
    json.dumps(error.to_dict())
    return ""


def _at(error: BaseException) -> str:
    """The exception's type, and the innermost line of envbuild that it passed."""
    if isinstance(error, ThereFailed):
        return str(error).partition(": ")[0]
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if "/envbuild/" in frame.filename and "site-packages" not in frame.filename
    ]
    frame = (own or frames)[-1]
    return f"{type(error).__name__} at {frame.filename.rpartition('/envbuild/')[2]}:{frame.name}"


@contextmanager
def bounded() -> Iterator[Callable[[], None]]:
    """Ends what runs too long. Gives a function that starts the time of the next input."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Endless(f"more than {LONGEST:g} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_PROF, LONGEST)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def input_of(reader: Reader, number: int) -> bytes:
    """The campaign's input of that number: always the same."""
    return reader.make(Random(f"{reader.name} {number}"))


@dataclass
class Told:
    """A reader's part of a campaign."""

    inputs: int
    refused: int
    seconds: float
    crashes: dict[str, Crash]


def campaign(reader: Reader, inputs: int, *, first: int = 0) -> Told:
    """Try ``inputs`` inputs from number ``first`` on; of each kind of crash the shortest input is kept."""
    told = Told(inputs=inputs, refused=0, seconds=0.0, crashes={})
    started = time.monotonic()
    with bounded() as again:
        for number in range(first, first + inputs):
            if number % 64 == 0:
                again()
            data = input_of(reader, number)
            crash, refused = attempt(reader, data)
            told.refused += refused
            if crash is not None:
                again()
                known = told.crashes.get(crash.at)
                if known is None or len(crash.data) < len(known.data):
                    told.crashes[crash.at] = crash
        again()
        told.crashes = {at: shorter(reader, crash) for at, crash in told.crashes.items()}
    told.seconds = time.monotonic() - started
    return told


def shorter(reader: Reader, crash: Crash, tries: int = 600) -> Crash:
    """The same crash by a shorter input, as far as leaving runs of bytes out goes."""
    if crash.at == "slow" or crash.at.startswith("Endless"):
        return crash
    step = max(1, len(crash.data) // 2)
    while step and tries > 0:
        at = 0
        while at < len(crash.data) and tries > 0:
            tries -= 1
            found, _ = attempt(reader, crash.data[:at] + crash.data[at + step :])
            if found is not None and found.at == crash.at:
                crash = found
            else:
                at += step
        step //= 2
    return crash
