"""Images as stacks of unpacked layers: what the bare OCI runtime and the sandbox share.

Each layer is unpacked once beside the store and used by all images that have it; there is nothing to load twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_MEMLOCK, getrlimit, setrlimit
from socket import gethostname

from envbuild.engine.gpus import find_driver, with_libraries
from envbuild.engine.loader import loader_layer
from envbuild.engine.model import ImageRef, Mount, RunCommand, not_loaded, process_argv, process_env
from envbuild.engine.users import TABLES, User, find_user
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import MANIFEST, Descriptor
from envbuild.progress import Progress
from envbuild.sandbox import Sandbox
from envbuild.sandbox.unpack import root_name, unpack_layers
from envbuild.store import Store

_WHERE = "the store's folder of unpacked layers"
_HOSTNAME = "envbuild"
_NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One container, with everything looked up: nothing in it refers to the image or the caller any more."""

    lowers: tuple[Path, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    user: User
    hostname: str
    mounts: tuple[Mount, ...]
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The unpacked layers of a store.

    Args:
        store: where blobs, roots and names are.
        sandbox: who owns the files in the roots.
        jobs: how many layers are unpacked at once.
        machine: below which the driver is looked for; tests have a stand-in.
    """

    store: Store
    sandbox: Sandbox
    jobs: int
    machine: Path = Path("/")

    def has(self, image: ImageRef) -> bool:
        """Whether every layer is unpacked."""
        return all(path.is_dir() for path in self._lowers(image))

    def load(self, image: ImageRef, progress: Progress) -> None:
        """Unpack what is not there, then give the names. Errors: those of ``unpack_layers``."""
        if not self.has(image):
            image.check_present()
            pairs = [
                (diff_id, image.layout.path(layer.digest))
                for diff_id, layer in zip(image.diff_ids, image.layers, strict=True)
            ]
            unpack_layers(
                self.sandbox, list(dict.fromkeys(pairs)), self.store.roots, jobs=self.jobs, progress=progress
            )
        self.tag(image, image.names)

    def tag(self, image: ImageRef, names: Iterable[str]) -> None:
        """Names are those of the store's layout: these engines have no list of their own."""
        if not self.has(image):
            raise not_loaded(image, _WHERE)
        size = image.layout.path(image.manifest).stat().st_size
        for name in names:
            image.layout.tag(name, Descriptor(media_type=MANIFEST, digest=image.manifest, size=size))

    def prepare(
        self, image: ImageRef, command: RunCommand, passes: Mapping[str, str], folder: Path
    ) -> Prepared:
        """Look everything up; ``folder`` takes files that are made for the container.

        Errors: ``image-not-loaded``, ``no-such-user``, ``no-gpus``, ``bad-mount``.
        """
        if not self.has(image):
            raise not_loaded(image, _WHERE)
        lowers = tuple(dict.fromkeys(reversed(self._lowers(image))))[::-1]
        user = find_user(image.text("User") if command.user is None else command.user, self._tables(lowers))
        env = process_env(image, command, passes, user.home)
        hostname = gethostname() if command.network else _HOSTNAME
        mounts = [*command.mounts, *(_network_files() if command.network else [_hosts(folder)])]
        devices: tuple[str, ...] = ()
        for mount in command.mounts:
            _check_mount(mount)
        if command.gpus:
            driver = find_driver(self.machine)
            devices = driver.devices(command.gpus)
            mounts += driver.mounts()
            env = with_libraries(env)
            if layer := loader_layer(self.sandbox, lowers, driver.mounts(), folder):
                lowers = (*lowers, layer)
        return Prepared(
            lowers=lowers,
            argv=process_argv(image, command),
            env=env,
            cwd=command.workdir or image.text("WorkingDir") or "/",
            user=user,
            hostname=hostname,
            mounts=tuple(mounts),
            devices=devices,
        )

    def _tables(self, lowers: Sequence[Path]) -> Mapping[str, str]:
        """The image's users and groups, read as its programs would read them."""
        arguments = {
            "lowers": [str(path.absolute()) for path in lowers],
            "names": list(TABLES),
            "user_namespace": self.sandbox.maps is not None,
        }
        found = self.sandbox.call("envbuild.sandbox.mounts:read_files", arguments)
        assert isinstance(found, dict)
        return found

    def _lowers(self, image: ImageRef) -> list[Path]:
        return [self.store.roots / root_name([diff_id]) for diff_id in image.diff_ids]


@contextmanager
def memory_locks_allowed() -> Iterator[None]:
    """Let processes started in the context lock as much memory as this user may: NCCL and RDMA pin theirs."""
    before = getrlimit(RLIMIT_MEMLOCK)
    try:
        setrlimit(RLIMIT_MEMLOCK, (RLIM_INFINITY, RLIM_INFINITY))
    except (OSError, ValueError):
        setrlimit(RLIMIT_MEMLOCK, (before[1], before[1]))
    try:
        yield
    finally:
        setrlimit(RLIMIT_MEMLOCK, before)


def _network_files() -> tuple[Mount, ...]:
    """The host's resolver settings: with the host's network the container needs the host's names."""
    found = [(Path(os.path.realpath(name)), name) for name in _NETWORK_FILES]
    return tuple(Mount(source=source, target=target) for source, target in found if source.is_file())


def _hosts(folder: Path) -> Mount:
    """Without a network the container must still resolve its own name: NCCL and gloo ask for it."""
    path = folder / "hosts"
    path.write_text(f"127.0.0.1 localhost {_HOSTNAME}\n::1 localhost\n")
    path.chmod(0o644)
    return Mount(source=path, target="/etc/hosts")


def _check_mount(mount: Mount) -> None:
    if not mount.source.exists():
        problem = f"{mount.source} does not exist"
    elif not mount.target.startswith("/") or ".." in mount.target.split("/"):
        problem = f"{mount.target} is not an absolute path"
    else:
        return
    raise EnvbuildError(
        "bad-mount",
        f"cannot mount {mount.source} on {mount.target}: {problem}",
        hint="give an existing path of this machine and an absolute one of the container",
        exit=Exit.USAGE,
    )
