"""What tests of the suite start from: expectations of nothing, defects, and a way to put one into a place."""

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

NOT_AVERAGED = """
import os
if os.environ.get("RANK"):
    from torch.nn.parallel import DistributedDataParallel as Ddp
    real = Ddp.__init__
    def wrong(self, *a, **k):
        real(self, *a, **k)
        self.require_backward_grad_sync = False
    Ddp.__init__ = wrong
"""
"""DDP whose backward does not average gradients."""

WRONG_SHARD = """
import os
if os.environ.get("RANK") == "1":
    import torch
    real = torch.save
    def wrong(value, path, *a, **k):
        if str(path).endswith("optim_states.pt"):
            value["optimizer_state_dict"]["fp32_flat_groups"][0].data.view(-1)[5] += 1
        return real(value, path, *a, **k)
    torch.save = wrong
"""
"""One number of rank 1's shard of a ZeRO checkpoint is another."""


def seed(place: Place, code: str) -> None:
    """Put a defect into every Python that the suite starts."""
    folder = place.root / "defect"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    place.environ["PYTHONPATH"] = f"{folder}:{place.environ.get('PYTHONPATH', place.suite)}"
