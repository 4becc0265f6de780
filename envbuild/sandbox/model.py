"""What to run and in which root filesystem: the sandbox's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SHM_SIZE = 1 << 30
"""Default size of /dev/shm in bytes: what NCCL and data loaders need, and more than Docker's 64 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A file or folder of the host that is visible in the sandbox.

    ``target`` is an absolute path in the sandbox; it is created where it is missing. Submounts come along.
    """

    source: Path
    target: str
    read_only: bool = True

    def to_dict(self) -> dict[str, object]:
        """The value as JSON for the helper process."""
        return {"source": str(self.source), "target": self.target, "read_only": self.read_only}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rootfs:
    """The root filesystem: folders stacked with overlayfs, bottom first.

    ``upper`` takes what the command writes. ``None`` gives a throwaway one in memory that is gone afterwards.
    With ``upper`` and lowers, overlayfs also needs ``<upper>.work`` beside it: the caller removes both
    (:meth:`Sandbox.remove`). Without lowers, ``upper`` itself is the root and no overlay is mounted.
    """

    lowers: tuple[Path, ...]
    upper: Path | None = None

    def to_dict(self) -> dict[str, object]:
        """The value as JSON for the helper process."""
        return {
            "lowers": [str(path.absolute()) for path in self.lowers],
            "upper": None if self.upper is None else str(self.upper.absolute()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One process in the sandbox.

    ``env`` is the whole environment: nothing of the caller's is added. ``argv[0]`` is looked up on its PATH.
    ``uid`` and ``gid`` are ids inside. ``network=True`` shares the host's network, else there is only a loopback
    device. ``devices`` are device nodes of the host (``/dev/nvidia0``) besides null, zero, full, random, urandom
    and tty. ``shm_size`` is the size of /dev/shm in bytes.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    binds: tuple[Bind, ...] = ()
    network: bool = False
    hostname: str = "envbuild"
    devices: tuple[str, ...] = ()
    shm_size: int = SHM_SIZE

    def to_dict(self) -> dict[str, object]:
        """The value as JSON for the helper process."""
        return {
            "argv": list(self.argv),
            "env": dict(self.env),
            "cwd": self.cwd,
            "uid": self.uid,
            "gid": self.gid,
            "binds": [bind.to_dict() for bind in self.binds],
            "network": self.network,
            "hostname": self.hostname,
            "devices": list(self.devices),
            "shm_size": self.shm_size,
        }
