"""What the doctor sees of the host, and what it says of it."""

from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

IMAGE = "etc/envbuild/image.json"


class State(StrEnum):
    """``good``; ``warning`` (works, less well or not for everything); ``problem`` (does not fit); ``unknown``."""

    GOOD = "good"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the report.

    ``detail`` is what was seen, in one line; ``fix`` what to do, where something is to be done; ``flags`` what to add
    to ``docker run``; ``facts`` the same for programs.
    """

    id: str
    state: State
    detail: str
    fix: str | None = None
    flags: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """As ``--json`` prints it."""
        return {
            "id": self.id,
            "state": str(self.state),
            "detail": self.detail,
            "fix": self.fix,
            "flags": list(self.flags),
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The host as this container shows it.

    ``root`` is ``/``; ``limits`` maps ``memlock`` and ``nofile`` to soft and hard limit (-1: none); ``image`` is the
    image's own description; ``nvml``, ``cuda`` and ``torch`` are the answers of ``ask_*.py``, each with the key
    ``error`` where it could not answer.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    cpus: int = 1
    image: Mapping[str, object] = field(default_factory=dict)
    nvml: Mapping[str, object] = field(default_factory=dict)
    cuda: Mapping[str, object] = field(default_factory=dict)
    torch: Mapping[str, object] = field(default_factory=dict)

    def text(self, path: str) -> str | None:
        """A file's text, or ``None`` where it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """The number that a file of /proc or /sys holds; ``None`` where it is not there, or is ``max``."""
        found = re.match(r"\s*(\d+)\s*$", self.text(path) or "")
        return int(found[1]) if found else None

    def names(self, path: str, pattern: str) -> list[str]:
        """The names in a folder that match a pattern wholly, sorted by their numbers."""
        try:
            names = [name for name in os.listdir(self.root / path) if re.fullmatch(pattern, name)]
        except OSError:
            return []
        return sorted(names, key=lambda name: (numbers_of(name), name))

    def gpus(self) -> list[str]:
        """The GPUs that the kernel shows in this container, as device names; WSL has one device for all."""
        return self.names("dev", r"nvidia\d+") or self.names("dev", "dxg")


def here(root: Path = Path("/")) -> Host:
    """This container, before NVML, CUDA and torch were asked."""
    limits = {"memlock": resource.RLIMIT_MEMLOCK, "nofile": resource.RLIMIT_NOFILE}
    bare = Host(root=root)
    try:
        image = json.loads(bare.text(IMAGE) or "{}")
    except ValueError:
        image = {}
    return Host(
        root=root,
        environ=dict(os.environ),
        limits={name: resource.getrlimit(number) for name, number in limits.items()},
        cpus=len(os.sched_getaffinity(0)),
        image=image if isinstance(image, dict) else {},
    )


def numbers_of(version: str) -> tuple[int, ...]:
    """``(580, 65, 6)`` of ``580.65.06``."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def size(count: int) -> str:
    """Bytes for people, in binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def entries(answer: Mapping[str, object], key: str) -> list[dict[str, object]]:
    """The objects under ``key`` of an answer; none where it is not a list of objects."""
    value = answer.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_of(values: Mapping[str, object], key: str) -> str:
    """The text under ``key``; empty where there is none."""
    value = values.get(key)
    return value if isinstance(value, str) else ""


def whole(values: Mapping[str, object], key: str) -> int | None:
    """The whole number under ``key``, or ``None``."""
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
