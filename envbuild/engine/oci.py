"""A bare OCI runtime: crun or runc with a bundle made for one command. No daemon, no registry, no toolkit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import termios
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL

from envbuild.engine.bundle import Device, config
from envbuild.engine.model import INHERITED, ImageRef, RunCommand, Streams, passed_on, timed_out
from envbuild.engine.oci_child import last_error
from envbuild.engine.roots import Roots, memory_locks_allowed
from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import Progress

RUNTIMES = ("crun", "runc")
"""In order of preference: crun needs no cgroups at all."""


def find_runtime(environ: Mapping[str, str]) -> Path:
    """The first runtime on PATH or in the folders of system programs. Error: ``no-oci-runtime`` (exit 7)."""
    path = os.pathsep.join([environ.get("PATH") or os.defpath, "/usr/local/sbin", "/usr/sbin", "/sbin"])
    for name in RUNTIMES:
        if found := shutil.which(name, path=path):
            return Path(found).absolute()
    raise EnvbuildError(
        "no-oci-runtime",
        "neither crun nor runc is installed",
        hint="install one (Debian, Ubuntu, Fedora: crun), or use --engine sandbox, which needs nothing",
        exit=Exit.ENGINE,
    )


def describe_runtime(program: Path) -> str:
    """Name, version and path of a runtime."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    line = (done.stdout.splitlines() or [program.name])[0]
    return f"{line} ({program})"


class OciRuntime:
    """Runs images with crun or runc, as root or in a user namespace.

    Differences to Docker: with ``network`` the container shares the host's network; what it writes outside of
    mounts lies in memory; there are no cgroups, so no limits but the caller's own.

    Args:
        program: the runtime's absolute path.
        roots: the unpacked layers.
        environ: the caller's environment, of which NCCL_* and the like are passed on.
    """

    name = "oci"

    def __init__(self, program: Path, roots: Roots, environ: Mapping[str, str]) -> None:
        self._program = program
        self._roots = roots
        self.passes: Mapping[str, str] = passed_on(environ)

    @classmethod
    def find(cls, roots: Roots, environ: Mapping[str, str]) -> OciRuntime:
        """The runtime that :func:`find_runtime` finds."""
        return cls(find_runtime(environ), roots, environ)

    def describe(self) -> str:
        """Name and version of the runtime."""
        return describe_runtime(self._program)

    def has(self, image: ImageRef) -> bool:
        """Whether every layer is unpacked."""
        return self._roots.has(image)

    def load(self, image: ImageRef, progress: Progress) -> None:
        """Unpack the layers that are not there, then name the image in the store."""
        self._roots.load(image, progress)

    def tag(self, image: ImageRef, names: Iterable[str]) -> None:
        """Name the image in the store."""
        self._roots.tag(image, names)

    def run(self, image: ImageRef, command: RunCommand, streams: Streams = INHERITED) -> int:
        """Run a command; its exit status (128 + n after signal n). Error: ``runtime-refused`` (exit 7)."""
        user_namespace = self._roots.sandbox.maps is not None
        with self._roots.store.scratch("oci-run") as bundle:
            ready = self._roots.prepare(image, command, self.passes, bundle)
            document = config(
                ready,
                command,
                devices=tuple(Device.of(path) for path in ready.devices),
                user_namespace=user_namespace,
            )
            (bundle / "rootfs").mkdir()
            (bundle / "config.json").write_text(json.dumps(document))
            arguments = {
                "lowers": [str(path.absolute()) for path in ready.lowers],
                "bundle": str(bundle),
                "argv": self._argv(bundle),
                "timeout": command.timeout,
                "user_namespace": user_namespace,
                "hide_cgroups": self._program.name == "crun",
            }
            stdin = streams.stdin if command.interactive else DEVNULL
            with memory_locks_allowed(), _terminal_kept(streams.stdin if command.tty else None):
                outcome = self._roots.sandbox.call(
                    "envbuild.engine.oci_child:run", arguments, files=(stdin, streams.stdout, streams.stderr)
                )
            assert isinstance(outcome, dict)
            status = outcome["status"]
            if status is None:
                raise timed_out(command)
            if status and (reason := last_error(bundle / "log.json")):
                raise self._refused(reason)
        return int(status)

    def _argv(self, bundle: Path) -> list[str]:
        # Without cgroups: crun can be told so; runc ignores that it may not make any.
        choice = "--cgroup-manager=disabled" if self._program.name == "crun" else "--rootless=true"
        log = ["--log", str(bundle / "log.json"), "--log-format", "json"]
        return [
            str(self._program),
            *("--root", str(bundle / "state")),
            choice,
            *log,
            "run",
            *("--bundle", str(bundle)),
            bundle.name,
        ]

    def _refused(self, reason: str) -> EnvbuildError:
        return EnvbuildError(
            "runtime-refused",
            f"{self._program.name} could not run the container: {reason}",
            hint="check the command's name and the mounts; `envbuild doctor` says what this machine allows, "
            "--engine sandbox needs less",
            exit=Exit.ENGINE,
        )


@contextmanager
def _terminal_kept(fd: int | None) -> Iterator[None]:
    """Give the terminal back as it was, also when the runtime was killed in the middle."""
    if fd is None or not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
