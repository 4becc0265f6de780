"""What this machine can do, what is missing, and how to get it (docs/reference/doctor.md)."""

from envbuild.doctor.examine import examine
from envbuild.doctor.report import Finding, Report, State

__all__ = ["Finding", "Report", "State", "examine"]
