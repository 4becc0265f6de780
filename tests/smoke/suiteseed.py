"""What tests of the suite start from: expectations of nothing, and a way to put a defect into a place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import Place

EMPTY: dict[str, Any] = {
    "format": 2,
    "ref": "pytorch-cuda:test",
    "complete": True,
    "declared": {},
    "packages": {},
    "hashed": [],
    "imports": [],
    "cuda": None,
    "libraries": [],
    "operator": None,
    "driver_floor": None,
    "gpus": {"wanted": 2, "given": None},
}


def seed(place: Place, code: str) -> None:
    """Put a defect into every Python that the suite starts."""
    folder = place.root / "defect"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    place.environ["PYTHONPATH"] = f"{folder}:{place.environ.get('PYTHONPATH', place.suite)}"
