"""The least pace of an answer: a server that sends a byte now and then must not hold a command for ever.

A connection's timeout counts from byte to byte, so that one byte a second never meets it. Here it is the bytes of a
window of waiting that count. Only waiting for the network does: a slow disk or a long hash is not the server's fault.
"""

from __future__ import annotations

import http.client
import io
import socket
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, ClassVar

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

_OVERHEAD = 16 << 20
"""Bytes of headers and framing without any content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """In ``seconds`` of waiting at least ``least`` bytes must come, or the attempt is over."""

    seconds: float = 25.0
    least: int = 4096

    def broken(self, came: int) -> Slow:
        """The error for a window in which ``came`` bytes came."""
        if came == 0:
            return Slow(f"sent nothing for {self.seconds:g} seconds", self.seconds)
        return Slow(f"sent {came} bytes in {self.seconds:g} seconds", self.seconds)


class Slow(TimeoutError):
    """A server that keeps below the pace, for so many seconds; the text follows its name."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Window:
    """The waiting and the bytes since the pace was last kept."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waited = 0.0
        self.came = 0

    @property
    def left(self) -> float:
        """Seconds until the pace is broken, if nothing more comes."""
        return max(0.001, self._pace.seconds - self._waited)

    def add(self, amount: int, seconds: float) -> None:
        """``amount`` bytes came after ``seconds`` of waiting.

        Raises:
            Slow: that is too little.
        """
        self.came += amount
        self._waited += seconds
        if self.came >= self._pace.least:
            self.came, self._waited = 0, 0.0
        elif self._waited >= self._pace.seconds:
            raise self._pace.broken(self.came)


class Meter(io.RawIOBase):
    """The bytes of one answer, headers too, as the socket gives them."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, pace: Pace, *, thinking: bool) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._pace = pace
        self._timeout = sock.gettimeout()
        self._window = Window(pace)
        self._thinking = thinking
        self._overhead = 0

    def content(self) -> None:
        """Content came: what comes with it is no mere overhead."""
        self._overhead = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Read what is there, waiting no longer than the pace allows; for a first byte, where the server has work to
        do, as long as the socket's own timeout.
        """
        own = self._timeout
        paced = not self._thinking and (own is None or self._window.left < own)
        self._sock.settimeout(self._window.left if paced else own)
        began = monotonic()
        try:
            amount = self._raw.readinto(buffer)
        except TimeoutError as error:
            if not paced:
                raise
            raise self._pace.broken(self._window.came) from error
        self._window.add(amount or 0, 0.0 if self._thinking else monotonic() - began)
        self._thinking = False
        self._overhead += amount or 0
        if self._overhead > _OVERHEAD:
            raise Slow(f"sent {self._overhead} bytes of headers and no content", self._pace.seconds)
        return int(amount) if amount is not None else None

    def close(self) -> None:
        """Give the socket back as it was: the connection may serve another request."""
        if not self.closed:
            with suppress(OSError):
                self._sock.settimeout(self._timeout)
            self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that is read through a meter."""

    pace: ClassVar[Pace]

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        thinking = method not in {None, "GET", "HEAD"}
        fp: Any = self.fp
        self.meter = Meter(fp.detach(), sock, self.pace, thinking=thinking)
        self.fp = io.BufferedReader(self.meter)


def paced_pools(pace: Pace) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's classes by scheme, whose answers keep the pace."""

    class Answer(_Answer):
        pass

    class Plain(HTTPConnection):
        response_class = Answer

    class Tls(HTTPSConnection):
        response_class = Answer

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    Answer.pace = pace
    return {"http": PlainPool, "https": TlsPool}
