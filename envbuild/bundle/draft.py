"""A layer before its far files, patches and streams have numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from envbuild.bundle.far import Known
from envbuild.bundle.model import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchDraft:
    """A file of ``size`` bytes as the difference to a far file; ``file`` holds the frames."""

    known: Known
    size: int
    frames: list[Frame]
    file: Path

    @property
    def travels(self) -> int:
        """Bytes of all frames."""
        return sum(frame.length for frame in self.frames)


Part = int | Known | PatchDraft
"""Literal bytes (how many), a far file, or a patch."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """One layer: ``literal`` is the file of its compressed literal bytes (``literal_size`` of them), if it has any."""

    diff_id: str
    size: int
    parts: list[Part] = field(default_factory=list)
    literal: Path | None = None
    literal_size: int = 0

    @property
    def patches(self) -> list[PatchDraft]:
        """The patches among the parts."""
        return [part for part in self.parts if isinstance(part, PatchDraft)]

    @property
    def travels(self) -> int:
        """Bytes that the layer adds to the pieces."""
        return self.literal_size + sum(patch.travels for patch in self.patches)
