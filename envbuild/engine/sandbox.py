"""The engine of last resort: the sandbox itself. Nothing has to be installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from subprocess import DEVNULL

from envbuild.engine.model import INHERITED, ImageRef, RunCommand, Streams, passed_on, timed_out
from envbuild.engine.roots import Prepared, Roots, memory_locks_allowed
from envbuild.errors import EnvbuildError
from envbuild.progress import Progress
from envbuild.sandbox import Bind, Command, Rootfs


class SandboxEngine:
    """Runs images by namespaces and overlayfs alone.

    Differences to Docker: with ``network`` the container shares the host's network; what it writes outside of
    mounts lies in memory; the terminal is the caller's own.

    Args:
        roots: the unpacked layers.
        environ: the caller's environment, of which NCCL_* and the like are passed on.
    """

    name = "sandbox"

    def __init__(self, roots: Roots, environ: Mapping[str, str]) -> None:
        self._roots = roots
        self.passes: Mapping[str, str] = passed_on(environ)

    def describe(self) -> str:
        """How the sandbox is entered."""
        return "sandbox as root" if self._roots.sandbox.maps is None else "sandbox in a user namespace"

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
        """Run a command; its exit status (128 + n after signal n)."""
        try:
            with self._roots.store.scratch("sandbox-run") as folder, memory_locks_allowed():
                ready = self._roots.prepare(image, command, self.passes, folder)
                return self._roots.sandbox.run(
                    Rootfs(lowers=ready.lowers),
                    _command(ready, command),
                    stdin=streams.stdin if command.interactive else DEVNULL,
                    stdout=streams.stdout,
                    stderr=streams.stderr,
                    timeout=command.timeout,
                )
        except EnvbuildError as error:
            if error.id == "sandbox-timeout":
                raise timed_out(command) from error
            raise


def _command(ready: Prepared, command: RunCommand) -> Command:
    return Command(
        argv=ready.argv,
        env=ready.env,
        cwd=ready.cwd,
        uid=ready.user.uid,
        gid=ready.user.gid,
        binds=tuple(
            Bind(source=item.source, target=item.target, read_only=item.read_only) for item in ready.mounts
        ),
        network=command.network,
        hostname=ready.hostname,
        devices=ready.devices,
        shm_size=command.shm_size,
    )
