"""Versions and builds as conda-forge writes them: order, the nearest ones, which Python and CUDA a build is for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from envbuild.recipe.suggest import nearest_versions

if TYPE_CHECKING:
    from rattler import RepoDataRecord

_PYTHON = re.compile(r"(?:^|_|[a-z0-9])py(3)(\d{1,2})(?=h|_|$)")
_CUDA = re.compile(r"cuda(\d{2})(\d)(?=\D|$)")


def in_order(versions: Iterable[str]) -> list[str]:
    """Each version once, in conda's order."""
    from rattler import Version

    return sorted(set(versions), key=Version)


def nearest_conda_versions(version: str, existing: Iterable[str], limit: int = 3) -> list[str]:
    """The existing versions nearest to ``version``, nearest first; the newest where nothing can be compared."""
    known = in_order(existing)
    return nearest_versions(version, known, limit=limit) or known[-limit:][::-1]


def python_of(record: RepoDataRecord) -> str | None:
    """``3.11`` of a build for that Python; ``None`` of one for any."""
    match = _PYTHON.search(str(record.build))
    return f"{match.group(1)}.{match.group(2)}" if match else None


def cuda_builds(records: Iterable[RepoDataRecord]) -> list[str]:
    """The CUDA versions that the builds are for, in order: ``12.6`` of ``cuda126_mkl_…``."""
    found = (_CUDA.search(str(record.build)) for record in records)
    return in_order(f"{match.group(1)}.{match.group(2)}" for match in found if match)
