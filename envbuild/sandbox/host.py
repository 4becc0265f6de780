"""The sandbox as callers see it: commands in a root filesystem, and functions with its owners' rights."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox.ids import IdMaps, subordinate_ids
from envbuild.sandbox.model import Command, Rootfs
from envbuild.sandbox.outcome import raise_described

_GRACE = 5.0  # seconds between asking the helper to kill everything and killing the helper itself

File = int | IO[bytes] | None
"""What :mod:`subprocess` takes, but for PIPE: ``None`` is the caller's own, or a file, or DEVNULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """How this machine lets this user enter a root filesystem. Get one from :meth:`detect`.

    ``maps`` is None for root, else the ids of the user namespace.
    """

    maps: IdMaps | None

    @classmethod
    def detect(cls) -> Sandbox:
        """Find a way that works, by trying it (50 ms).

        Root enters namespaces directly; others need newuidmap and subordinate ids. Root that may not (in a
        container) is tried like the others.

        Raises:
            EnvbuildError: exit 7; what to install or configure.
        """
        if os.getuid() == 0:
            sandbox = cls(maps=None)
            try:
                sandbox.call("envbuild.sandbox.probe:namespaces", {})
            except EnvbuildError as refused:
                with contextlib.suppress(EnvbuildError):
                    return cls._mapped()
                raise refused
            return sandbox
        return cls._mapped()

    @classmethod
    def _mapped(cls) -> Sandbox:
        sandbox = cls(maps=subordinate_ids(uid=os.getuid(), gid=os.getgid()))
        sandbox.call("envbuild.sandbox.probe:namespaces", {})
        return sandbox

    def run(
        self,
        rootfs: Rootfs,
        command: Command,
        *,
        stdin: File = None,
        stdout: File = None,
        stderr: File = None,
        timeout: float | None = None,
    ) -> int:
        """Run a command and wait. Whatever happens, no process of it is left.

        Args:
            rootfs: where.
            command: what.
            stdin, stdout, stderr: as in :class:`subprocess.Popen` (no PIPE).
            timeout: seconds.

        Returns:
            The command's exit status; 128 + n if signal n ended it.

        Raises:
            EnvbuildError: exit 7; the root cannot be set up, the command cannot be started, or time is up.
        """
        spec = {"rootfs": rootfs.to_dict(), "command": command.to_dict()}
        with self._helper(spec, (stdin, stdout, stderr)) as (process, status):
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                raise EnvbuildError(
                    "sandbox-timeout",
                    f"{command.argv[0]} was stopped after {timeout:g} s",
                    hint="its output above may say why it took so long",
                    exit=Exit.ENGINE,
                ) from error
            for line in status:
                _outcome(line)
        return code if code >= 0 else 128 - code

    def call(
        self,
        function: str,
        arguments: Mapping[str, object],
        *,
        advance: Callable[[int], None] | None = None,
        files: tuple[File, File, File] = (subprocess.DEVNULL, None, None),
    ) -> object:
        """Call ``package.module:function(arguments, advance)`` in a helper process whose uid 0 is the sandbox's.

        So that owners in unpacked roots are right for an ordinary user too. Arguments and result go as JSON.

        Args:
            function: a top-level function of an importable module.
            arguments: its first argument.
            advance: gets the amounts that the function reports to its second argument.
            files: the process's stdin, stdout and stderr, as in :class:`subprocess.Popen` (no PIPE).

        Returns:
            What the function returned.

        Raises:
            EnvbuildError: what the function raised, or why the ids cannot be had.
        """
        result: object = None
        spec = {"function": function, "arguments": dict(arguments)}
        with self._helper(spec, files) as (process, status):
            for line in status:
                value = _outcome(line)
                if advance is not None and "advance" in value:
                    advance(int(str(value["advance"])))
                result = value.get("result", result)
            if process.wait():
                raise RuntimeError(f"{function} ended with {process.returncode} and said nothing")
        return result

    def remove(self, path: Path) -> None:
        """Remove a file or tree that the sandbox made, whatever its owners and modes are."""
        self.call("envbuild.sandbox.trees:remove", {"path": str(path.absolute())})

    @contextlib.contextmanager
    def _helper(
        self, spec: Mapping[str, object], files: tuple[File, File, File]
    ) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        spec_r, spec_w = os.pipe()
        status_r, status_w = os.pipe()
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        with os.fdopen(spec_w, "wb") as spec_file, os.fdopen(status_r, "rb") as status:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "envbuild.sandbox.launch", str(spec_r), str(status_w)],
                    stdin=files[0],
                    stdout=files[1],
                    stderr=files[2],
                    pass_fds=(spec_r, status_w),
                    env={**os.environ, "PYTHONPATH": path},
                )
            finally:
                os.close(spec_r)
                os.close(status_w)
            try:
                maps = None if self.maps is None else self.maps.to_dict()
                with contextlib.suppress(BrokenPipeError):
                    spec_file.write(json.dumps({**spec, "maps": maps, "parent": os.getpid()}).encode())
                    spec_file.close()
                yield process, status
            finally:
                _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Have everything killed; return when it is gone."""
    deadline = time.monotonic() + _GRACE
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
        else:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)


def _outcome(line: bytes) -> dict[str, object]:
    """One line of status; raises what it tells of."""
    value = json.loads(line)
    assert isinstance(value, dict)
    raise_described(value)
    return value
