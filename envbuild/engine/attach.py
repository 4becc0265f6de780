"""A container's standard streams over the Docker API: attach, start, copy, wait.

The engine multiplexes stdout and stderr in frames when there is no terminal (Docker Engine API, "Attach to a
container", "Stream format"): 4 bytes of which the first names the stream, 4 bytes of length, the payload.
"""

from __future__ import annotations

import os
import signal
import socket
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envbuild.engine.model import Streams

if TYPE_CHECKING:
    from docker import APIClient

_PIECE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One container that was created and not yet started."""

    client: APIClient
    container: str
    streams: Streams

    def run(self, *, terminal: bool, stdin: bool, timeout: float | None) -> int | None:
        """Start the container, copy its streams until it ends; its exit status, or None after ``timeout`` seconds."""
        connection = self._attach(stdin=stdin)
        try:
            self.client.start(self.container)
            with _raw_terminal(self.streams.stdin, active=terminal), self._resizing(active=terminal):
                feeder = threading.Thread(target=self._feed, args=(connection,), daemon=True)
                if stdin:
                    feeder.start()
                deadline = None if timeout is None else time.monotonic() + timeout
                if not self._copy(connection, multiplexed=not terminal, deadline=deadline):
                    self.client.kill(self.container)
                    return None
            return int(self.client.wait(self.container)["StatusCode"])
        finally:
            connection.close()

    def _attach(self, *, stdin: bool) -> socket.socket:
        stream = self.client.attach_socket(
            self.container, params={"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
        )
        found: Any = getattr(stream, "_sock", stream)
        connection: socket.socket = found
        connection.settimeout(None)
        return connection

    def _copy(self, connection: socket.socket, *, multiplexed: bool, deadline: float | None) -> bool:
        """Copy what the container writes until it closes its streams; False when the deadline passed first."""
        targets = {1: self.streams.stdout, 2: self.streams.stderr}
        pending = b""
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            connection.settimeout(left)
            try:
                piece = connection.recv(_PIECE)
            except TimeoutError:
                continue
            if not piece:
                return True
            if not multiplexed:
                _write(self.streams.stdout, piece)
                continue
            pending += piece
            while len(pending) >= 8 and len(pending) >= 8 + int.from_bytes(pending[4:8]):
                end = 8 + int.from_bytes(pending[4:8])
                _write(targets.get(pending[0], self.streams.stdout), pending[8:end])
                pending = pending[end:]

    def _feed(self, connection: socket.socket) -> None:
        """Copy our stdin to the container; its end closes the container's."""
        with suppress(OSError):
            while piece := os.read(self.streams.stdin, _PIECE):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)

    @contextmanager
    def _resizing(self, *, active: bool) -> Iterator[None]:
        """Tell the engine the terminal's size, now and when it changes."""
        if not active or threading.current_thread() is not threading.main_thread():
            yield
            return

        def resize(*_: object) -> None:
            with suppress(OSError):
                size = os.get_terminal_size(self.streams.stdin)
                self.client.resize(self.container, height=size.lines, width=size.columns)

        before = signal.signal(signal.SIGWINCH, resize)
        try:
            resize()
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)


@contextmanager
def _raw_terminal(fd: int, *, active: bool) -> Iterator[None]:
    """Hand every key to the container while the context lasts, and give the terminal back as it was."""
    if not active or not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSANOW)  # keeps what was typed ahead
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
