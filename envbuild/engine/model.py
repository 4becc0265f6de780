"""The values that engines take: which image, and what to run in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import Descriptor
from envbuild.oci.digest import Digest, of_bytes
from envbuild.oci.document import read_json
from envbuild.oci.layout import Layout
from envbuild.progress import Progress

PASSED_ON = ("NCCL_", "TORCH_NCCL_", "TORCH_SYMM_MEM_", "NVSHMEM_")
"""Prefixes of the caller's variables that every engine hands to the container.

An operator may forbid a feature of the hardware with them; a container must not undo that.
"""

SHM_SIZE = 8 << 30
"""Default size of /dev/shm in bytes: NCCL needs about 1 GiB, data loaders more. It is taken only when used."""

_NAME = re.compile(r"[a-z0-9]+(?:[._/:-][a-z0-9]+)*:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``environ`` that a container gets from the caller, sorted by name."""
    return {name: environ[name] for name in sorted(environ) if name.startswith(PASSED_ON)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """One image in a layout and the names that an engine shall know it by.

    Args:
        names: ``repository:tag`` names, at least one; :meth:`Engine.load` gives all of them.
        manifest: the image's digest (that of its manifest).
        config: the digest of its config: what ``docker image inspect`` calls the ID.
        layers: the layers' descriptors as the manifest lists them, bottom first.
        diff_ids: the digests of the plain layers, in the same order.
        settings: the ``config`` object of the image config (Env, Entrypoint, Cmd, User, WorkingDir …).
        layout: where the blobs are.
    """

    names: tuple[str, ...]
    manifest: str
    config: str
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    settings: Mapping[str, object]
    layout: Layout

    @classmethod
    def read(cls, layout: Layout, manifest: str, names: tuple[str, ...]) -> ImageRef:
        """Read manifest and config from ``layout``.

        Errors: ``image-not-in-store`` (exit 3) when a blob is missing, ``bad-image`` (exit 5) when one cannot
        be read as the OCI image specification says, ``bad-image-name`` (exit 2).
        """
        for name in names:
            if not _NAME.fullmatch(name):
                raise EnvbuildError(
                    "bad-image-name",
                    f"{name!r} is not an image name",
                    hint="write it as repository:tag in lower case, for example pytorch-cuda:v2.7-candidate",
                    exit=Exit.USAGE,
                )
        try:
            document = _blob(layout, manifest)
            entry = document["config"]
            config = _blob(layout, entry["digest"])
            layers = tuple(_descriptor(item) for item in document["layers"])
            diff_ids = tuple(str(Digest(item)) for item in config["rootfs"]["diff_ids"])
            if len(layers) != len(diff_ids):
                raise ValueError(f"{len(layers)} layers, {len(diff_ids)} diff_ids")
            return cls(
                names=names,
                manifest=manifest,
                config=entry["digest"],
                layers=layers,
                diff_ids=diff_ids,
                settings=dict(config.get("config") or {}),
                layout=layout,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EnvbuildError(
                "bad-image",
                f"the image's manifest or config is not what the OCI image specification says: {error!r}",
                where=manifest,
                hint="build it again with `envbuild image REF`",
                exit=Exit.VERIFY,
            ) from error

    @property
    def size(self) -> int:
        """Bytes of all layers as they are stored."""
        return sum(layer.size for layer in self.layers)

    @property
    def present(self) -> bool:
        """Whether every layer's blob is in the store with its size."""
        return all(self.layout.has(layer.digest, layer.size) for layer in self.layers)

    def check_present(self) -> None:
        """See that every blob is in the store with its size. Error: ``image-not-in-store`` (exit 3)."""
        for layer in self.layers:
            if not self.layout.has(layer.digest, layer.size):
                raise EnvbuildError(
                    "image-not-in-store",
                    f"the store does not have the layer {layer.digest} of {layer.size} bytes",
                    where=str(self.layout.root),
                    hint="build the image again: envbuild image REF; one that came by `envbuild unbundle` has "
                    "unpacked layers only, which --engine oci and --engine sandbox run",
                    exit=Exit.INPUT,
                )

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings of the config (``Env``, ``Entrypoint``, ``Cmd``); empty when it is absent."""
        value = self.settings.get(key)
        return tuple(str(item) for item in value) if isinstance(value, list) else ()

    def text(self, key: str) -> str:
        """A string of the config (``User``, ``WorkingDir``); empty when it is absent."""
        value = self.settings.get(key)
        return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file or folder of the host that the container sees at ``target`` (an absolute path)."""

    source: Path
    target: str
    read_only: bool = True


Gpus = Literal["all"] | int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """What to run in a container.

    Args:
        argv: replaces the image's Cmd when not empty; its Entrypoint stays unless ``entrypoint`` is False.
        env: wins over the caller's variables that are passed on, which win over the image's.
        workdir: absolute path; the image's when None.
        user: ``name``, ``uid`` or ``uid:gid``; the image's when None.
        gpus: ``"all"``, or how many (0: none).
        mounts: files and folders of the host.
        shm_size: bytes of /dev/shm.
        network: whether the container reaches the network. Loopback is always there.
        interactive: whether stdin is connected.
        tty: whether the container gets a terminal; needs ``interactive``.
        timeout: seconds after which the container is killed; None for no limit.
    """

    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    user: str | None = None
    gpus: Gpus = 0
    mounts: tuple[Mount, ...] = ()
    shm_size: int = SHM_SIZE
    network: bool = True
    interactive: bool = False
    tty: bool = False
    entrypoint: bool = True
    timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """File descriptors that the container's standard streams are connected to."""

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2


INHERITED = Streams()
"""The caller's own stdin, stdout and stderr."""


class Engine(Protocol):
    """What runs containers. ``passes`` are the caller's variables that every container gets."""

    name: str
    passes: Mapping[str, str]

    def describe(self) -> str:
        """Name, version and where it keeps images: one line for people."""

    def has(self, image: ImageRef) -> bool:
        """Whether the engine has this very image."""

    def load(self, image: ImageRef, progress: Progress) -> None:
        """Bring the image in, unless it is there, and give it its names; names last."""

    def run(self, image: ImageRef, command: RunCommand, streams: Streams = INHERITED) -> int:
        """Run a command in a new container; its exit status (128 + n after signal n).

        Nothing of the container is left afterwards: no process, and no file outside of writable mounts.
        Errors (exit 7): ``image-not-loaded``, ``container-timeout``, ``no-gpus``, ``too-few-gpus`` and the
        engine's own.
        """

    def tag(self, image: ImageRef, names: Iterable[str]) -> None:
        """Give the image, which the engine has, these names."""


def process_argv(image: ImageRef, command: RunCommand) -> tuple[str, ...]:
    """Entrypoint and arguments as Docker joins them: the command's argv stands for Cmd."""
    argv = (
        (*image.texts("Entrypoint"), *(command.argv or image.texts("Cmd")))
        if command.entrypoint
        else (command.argv or image.texts("Cmd"))
    )
    if not argv:
        raise EnvbuildError(
            "nothing-to-run",
            f"{image.names[0]} has no command of its own",
            hint="give one: envbuild run REF -- CMD…",
            exit=Exit.USAGE,
        )
    return argv


def process_env(image: ImageRef, command: RunCommand, passes: Mapping[str, str], home: str) -> dict[str, str]:
    """The container's environment: the image's, then what the caller passes on, then the command's.

    ``home`` is the user's folder, for HOME where the image sets none.
    """
    env = dict(item.partition("=")[::2] for item in image.texts("Env"))
    env.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    env.setdefault("HOME", home)
    if command.tty:
        env.setdefault("TERM", "xterm")
    return {**env, **passes, **command.env}


def timed_out(command: RunCommand) -> EnvbuildError:
    """The error of every engine for a command that was killed after its ``timeout``."""
    return EnvbuildError(
        "container-timeout",
        f"the container was stopped after {command.timeout:g} s",
        hint="its output above may say why it took so long; give it more time",
        exit=Exit.ENGINE,
    )


def not_loaded(image: ImageRef, engine: str) -> EnvbuildError:
    """The error of every engine that is asked to run or tag an image that it does not have."""
    return EnvbuildError(
        "image-not-loaded",
        f"{engine} does not have the image {image.names[0]} ({image.config})",
        hint="load it first: envbuild image REF",
        exit=Exit.ENGINE,
    )


def _blob(layout: Layout, digest: str) -> dict[str, Any]:
    try:
        data = layout.path(digest).read_bytes()
    except OSError as error:
        raise EnvbuildError(
            "image-not-in-store",
            f"the store has no blob {digest}: {error.strerror}",
            where=str(layout.root),
            hint="build the image first: envbuild image REF",
            exit=Exit.INPUT,
        ) from error
    if of_bytes(data) != digest:
        raise EnvbuildError(
            "bad-image",
            f"a blob does not have the content that its name says\nexpected {digest}\nseen     {of_bytes(data)}",
            where=str(layout.path(digest)),
            hint="remove that file and build the image again: envbuild image REF",
            exit=Exit.VERIFY,
        )
    value = read_json(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _descriptor(item: Mapping[str, object]) -> Descriptor:
    size = item["size"]
    if not isinstance(size, int):
        raise TypeError("size is not a number")
    return Descriptor(media_type=str(item["mediaType"]), digest=str(item["digest"]), size=size)
