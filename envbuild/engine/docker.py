"""Docker, by docker-py (imported when first used: it costs 0.2 s).

Loading pulls from the store through :mod:`envbuild.engine.loopback`; where the engine cannot reach this machine's
loopback (a remote ``DOCKER_HOST``, an engine in a virtual machine) the image is streamed to ``docker load`` instead.
docs/decisions/0001-loading-into-docker.md has the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envbuild.engine.archive import archive_chunks, archive_size
from envbuild.engine.attach import Session
from envbuild.engine.docker_built import BuiltImage, inspect_built, save_built
from envbuild.engine.docker_errors import engine_errors, loaded_wrong
from envbuild.engine.loopback import serve
from envbuild.engine.model import INHERITED, ImageRef, RunCommand, Streams, not_loaded, passed_on, timed_out
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.layout import Layout
from envbuild.progress import Progress, Task

if TYPE_CHECKING:
    from docker import APIClient

PING_SECONDS = 10.0
CALL_SECONDS = 600.0


class Docker:
    """A Docker engine that answers.

    Args:
        client: a connected ``docker.APIClient``.
        environ: the caller's environment, of which NCCL_* and the like are passed on.
    """

    name = "docker"

    def __init__(self, client: APIClient, environ: Mapping[str, str]) -> None:
        self._client: Any = client  # docker-py's stubs leave half of its calls untyped
        self.passes: Mapping[str, str] = passed_on(environ)

    @classmethod
    def connect(cls, environ: Mapping[str, str]) -> Docker:
        """Find the engine as the ``docker`` command does: ``DOCKER_HOST``, the context, the default socket.

        Errors (exit 7): ``docker-permission``, ``docker-not-running``, ``docker-not-answering``.
        """
        import docker

        with engine_errors("connect to Docker"):
            client = docker.APIClient(timeout=int(PING_SECONDS), version="auto", **_address(environ))
            client.ping()
            client.timeout = int(CALL_SECONDS)
        return cls(client, environ)

    def describe(self) -> str:
        """Version, storage driver and root folder, for people."""
        with engine_errors("ask Docker for its version"):
            info = self._client.info()
        return f"Docker {info['ServerVersion']}, {info['Driver']} in {info['DockerRootDir']}"

    def has(self, image: ImageRef) -> bool:
        """Whether the engine has this very image (by config digest; by manifest digest in containerd's store)."""
        return self._id(image) is not None

    def load(self, image: ImageRef, progress: Progress) -> None:
        """Bring the image in and give it its names. Names are given last: a failed load leaves none.

        Errors: ``engine-stopped``, ``engine-refused`` (exit 7), ``image-not-in-store`` (3), ``blob-corrupt`` (5).
        """
        if not self.has(image):
            image.check_present()
            if not self._pull(image, progress):
                self._load_archive(image, progress)
            if not self.has(image):
                raise loaded_wrong(image)
        self.tag(image, image.names)

    def tag(self, image: ImageRef, names: Iterable[str]) -> None:
        """Give the image, which the engine has, these names."""
        identity = self._id(image)
        if identity is None:
            raise not_loaded(image, "Docker")
        for name in names:
            repository, _, tag = name.rpartition(":")
            with engine_errors(f"tag {name}"):
                self._client.tag(identity, repository, tag)

    def built(self, name: str, layout: Layout) -> BuiltImage | None:
        """What the engine has under ``name``, whoever built it; ``None`` where it has nothing."""
        return inspect_built(self._client, name, layout)

    def save(self, image: BuiltImage, name: str, path: Path, progress: Progress) -> None:
        """Write ``docker save`` of an image that the engine has to ``path``."""
        save_built(self._client, image, name, path, progress)

    def run(self, image: ImageRef, command: RunCommand, streams: Streams = INHERITED) -> int:
        """Run a command in a new container, connected to ``streams``; its exit status.

        The container is removed afterwards, also after Ctrl-C and a time-out.
        """
        if not self.has(image):
            raise not_loaded(image, "Docker")
        try:
            return self._run(image, command, streams, lock_memory=True)
        except EnvbuildError as error:
            if "rlimit" not in error.message:
                raise
        # An engine that itself may not raise limits (in a container without SYS_RESOURCE) gives its own.
        return self._run(image, command, streams, lock_memory=False)

    def _run(self, image: ImageRef, command: RunCommand, streams: Streams, *, lock_memory: bool) -> int:
        gpus = command.gpus != 0
        with engine_errors("create a container", gpus=gpus):
            made = self._client.create_container(**self._container(image, command, lock_memory=lock_memory))
        identity = made["Id"]
        try:
            session = Session(client=self._client, container=identity, streams=streams)
            with engine_errors("run a container", gpus=gpus):
                status = session.run(terminal=command.tty, stdin=command.interactive, timeout=command.timeout)
            if status is None:
                raise timed_out(command)
            return status
        finally:
            with engine_errors("remove the container", quiet=True):
                self._client.remove_container(identity, force=True, v=True)

    def _container(self, image: ImageRef, command: RunCommand, *, lock_memory: bool) -> dict[str, Any]:
        from docker.types import DeviceRequest, Ulimit

        gpus = []
        if command.gpus:
            count = -1 if command.gpus == "all" else command.gpus
            gpus = [DeviceRequest(count=count, capabilities=[["gpu"]])]
        host = self._client.create_host_config(
            binds=[
                f"{m.source.resolve()}:{m.target}:{'ro' if m.read_only else 'rw'}" for m in command.mounts
            ],
            device_requests=gpus,
            network_mode=None if command.network else "none",
            shm_size=command.shm_size,
            ulimits=[Ulimit(name="memlock", soft=-1, hard=-1)] if lock_memory else None,
        )
        return {
            "image": self._id(image),
            "command": list(command.argv) or None,
            "entrypoint": None if command.entrypoint else [],
            "environment": {**self.passes, **command.env},
            "working_dir": command.workdir,
            "user": command.user,
            "stdin_open": command.interactive,
            "tty": command.tty,
            "host_config": host,
        }

    def _id(self, image: ImageRef) -> str | None:
        from docker.errors import ImageNotFound

        for digest in (image.config, image.manifest):
            try:
                with engine_errors("look for the image"):
                    if self._client.inspect_image(digest)["Id"] == digest:
                        return digest
            except ImageNotFound:
                continue
        return None

    def _pull(self, image: ImageRef, progress: Progress) -> bool:
        """Pull by digest from loopback; False if the engine never reached us (then nothing has happened)."""
        if not self._client.base_url.startswith(("http+docker://localhost", "http+unix://")):
            return False
        with serve(image) as registry:
            with progress.task("Loading into Docker", total=image.size) as task:
                failure = self._follow_pull(image, registry.repository, task)
            if failure is None:
                self._release(image, f"{registry.repository}@{image.manifest}")
                return True
        if not registry.asked.is_set():
            progress.note(
                "the engine does not reach this machine's loopback: sending the image to `docker load`"
            )
            return False
        raise EnvbuildError(
            "engine-refused",
            f"Docker could not take the image: {failure}",
            hint="if it speaks of space, make room (docker system df); if of content, build the image again; "
            "the engine's log says more",
            exit=Exit.ENGINE,
        )

    def _follow_pull(self, image: ImageRef, repository: str, task: Task) -> str | None:
        """The engine's reason for refusing, in its answer or in the stream after it; None when it has the image."""
        from docker.errors import APIError

        with engine_errors("pull the image from the store"):
            try:
                events = self._client.pull(
                    repository, tag=image.manifest, stream=True, decode=True, auth_config={}
                )
                return _PullProgress(image, task).follow(events)
            except APIError as error:
                return str(error.explanation or error)

    def _release(self, image: ImageRef, temporary: str) -> None:
        """Name the image before its temporary name goes: one without a name would be removed."""
        self.tag(image, image.names)
        with engine_errors("remove the temporary name"):
            self._client.remove_image(temporary, noprune=True)

    def _load_archive(self, image: ImageRef, progress: Progress) -> None:
        with (
            progress.task("Loading into Docker", total=archive_size(image)) as task,
            engine_errors("load the image"),
        ):
            for event in self._client.load_image(_counted(archive_chunks(image), task), quiet=True):
                if "error" in event:
                    raise EnvbuildError(
                        "engine-refused",
                        f"Docker could not take the image: {event['error']}",
                        hint="check the engine's free disk space (docker system df), then run the command again",
                        exit=Exit.ENGINE,
                    )


class _PullProgress:
    """Adds up what the pull stream says of each layer's unpacking."""

    def __init__(self, image: ImageRef, task: Task) -> None:
        self._sizes = {layer.digest.removeprefix("sha256:")[:12]: layer.size for layer in image.layers}
        self._done: dict[str, int] = {}
        self._task = task

    def follow(self, events: Iterable[dict[str, Any]]) -> str | None:
        """Read the stream to its end; the engine's error message, if any."""
        for event in events:
            if "error" in event:
                return str(event["error"])
            identity = event.get("id", "")
            if identity not in self._sizes:
                continue
            if event.get("status") in ("Already exists", "Pull complete"):
                self._set(identity, self._sizes[identity])
            elif event.get("status") == "Extracting":
                self._set(identity, (event.get("progressDetail") or {}).get("current", 0))
        return None

    def _set(self, identity: str, current: int) -> None:
        before = self._done.get(identity, 0)
        if current > before:
            self._done[identity] = current
            self._task.advance(current - before)


def _counted(chunks: Iterable[bytes], task: Task) -> Iterable[bytes]:
    for chunk in chunks:
        yield chunk
        task.advance(len(chunk))


def _address(environ: Mapping[str, str]) -> dict[str, Any]:
    """Where the engine is, as docker's own command finds it."""
    import docker
    from docker.utils import kwargs_from_env

    found: dict[str, Any] = dict(kwargs_from_env(environment=dict(environ)))
    if "base_url" not in found:
        context = docker.ContextAPI.get_current_context()
        if context is not None and context.Host:
            found["base_url"] = context.Host
            if context.TLSConfig:
                found["tls"] = context.TLSConfig
    return found
