"""How often to try again, and how long to wait between."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from envbuild.store.faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Tries per source, and seconds between them: ``first``, doubled each time, at most ``longest``.

    ``longest_asked`` bounds what a server may ask for with ``Retry-After``. ``longest_stall`` bounds the seconds that
    tries in a row spend on waiting for too little: two of 25 seconds are over within a minute.
    """

    tries: int = 5
    longest_stall: float = 55.0
    first: float = 0.5
    longest: float = 10.0
    longest_asked: float = 60.0

    def start(self, *, stop: Callable[[], bool] | None = None) -> Effort:
        """Begin with one source. ``stop`` ends a wait early."""
        return Effort(self, stop)


class Effort:
    """The tries spent on one source. Progress gives them back."""

    def __init__(self, patience: Patience, stop: Callable[[], bool] | None) -> None:
        self._patience = patience
        self._stop = stop
        self._spent = 0
        self._stalled = 0.0

    def progressed(self) -> None:
        """Enough new bytes have come to keep the pace: start counting anew."""
        self._spent, self._stalled = 0, 0.0

    def again(self, fault: Fault) -> bool:
        """Wait, then say whether to try again after ``fault``."""
        self._spent += 1
        self._stalled += fault.stalled
        if not fault.retry or self._spent >= self._patience.tries:
            return False
        if fault.stalled and self._stalled + fault.stalled > self._patience.longest_stall:
            return False
        pause = min(self._patience.first * 2 ** (self._spent - 1), self._patience.longest)
        pause *= random.uniform(0.75, 1.25)  # noqa: S311 - spreads clients, guards nothing
        if fault.pause is not None:
            pause = max(pause, min(fault.pause, self._patience.longest_asked))
        end = time.monotonic() + pause
        while (left := end - time.monotonic()) > 0:
            if self._stop is not None and self._stop():
                return False
            time.sleep(min(left, 0.1))
        return True
