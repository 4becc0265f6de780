"""The doctor's answer as a value, as text and as JSON (docs/reference/doctor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

SCHEMA = 1
"""Version of the JSON form. A new optional key keeps it; anything else raises it."""


class State(StrEnum):
    """How a finding bears on what a user wants to do."""

    GOOD = "good"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Args:
        id: stable kebab-case name, for scripts.
        state: good, warning (works, less well) or missing.
        detail: what was seen, one line.
        fix: how to get what is missing: a command where there is one.
        facts: what was seen, for programs.
    """

    id: str
    state: State
    detail: str
    fix: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "id": self.id,
            "state": str(self.state),
            "detail": self.detail,
            "fix": self.fix,
            "facts": dict(self.facts),
        }


_NEEDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    # Each group needs one of its findings to be more than missing.
    "lock": (("python-index",), ("debian-mirror",), ("gpgv",), ("keyring",), ("store",)),
    "build": (("sandbox",), ("overlay",), ("store",)),
    "run": (("docker", "oci", "sandbox"), ("store",)),
    "prove": (("docker", "oci", "sandbox"), ("gpus",), ("driver",), ("store",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings of one machine, in a fixed order."""

    findings: tuple[Finding, ...]

    def __getitem__(self, id: str) -> Finding:
        """The finding of that name; KeyError if it was not looked for."""
        for finding in self.findings:
            if finding.id == id:
                return finding
        raise KeyError(id)

    @property
    def ready(self) -> dict[str, bool]:
        """What this machine can do: ``lock``, ``build``, ``run`` and ``prove`` (the suite on GPUs)."""
        there = {finding.id for finding in self.findings if finding.state is not State.MISSING}
        return {job: all(there.intersection(group) for group in groups) for job, groups in _NEEDS.items()}

    def to_dict(self) -> dict[str, object]:
        """What ``envbuild doctor --json`` prints."""
        return {
            "schema": SCHEMA,
            "ready": self.ready,
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def text(self) -> str:
        """One line a finding, its fix below where something is amiss, and what can be done at the end."""
        width = max(len(finding.id) for finding in self.findings)
        lines = []
        for finding in self.findings:
            detail = finding.detail.replace("\n", "; ")  # an error's message may have lines
            lines.append(f"{_SIGNS[finding.state]}  {finding.id:<{width}}  {detail}")
            if finding.fix and finding.state is not State.GOOD:
                lines.extend(f"   {'':<{width}}  → {part}" for part in finding.fix.splitlines())
        lines.append("")
        for job, can in self.ready.items():
            lines.append(f"{'ready to' if can else 'not ready to'} {_JOBS[job]}")
        return "\n".join(lines)


_SIGNS = {State.GOOD: "✓", State.WARNING: "!", State.MISSING: "✗"}
_JOBS = {
    "lock": "lock (envbuild lock)",
    "build": "build (envbuild image)",
    "run": "run images (envbuild run)",
    "prove": "prove images on GPUs (envbuild smoke)",
}
