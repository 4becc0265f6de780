"""The real image, listed by its own Python, holds package by package what its lock says."""

from __future__ import annotations

import json
import re

import pytest
from realimage import REF, ROOT, Real

pytestmark = pytest.mark.real


def test_the_image_in_docker_holds_what_its_lock_says(real: Real) -> None:
    """Versions of all packages, files of every Python package as its wheel in the store has them, GPU code."""
    operands = (f"docker:{REF}-candidate", REF)
    value = json.loads(real.envbuild("diff", *operands, "--json").stdout)
    assert value["packages"] == []
    assert value["agree"] is True
    image, lock = value["operands"]
    assert image["packages"] == lock["packages"]
    assert image["layers"] == lock["layers"]
    (built,) = (pin["forms"][0] for pin in value["pins"] if pin["name"] == "architectures")
    assert built == {
        "values": ["7.0 8.0 8.6 9.0+PTX"],
        "status": "agree",
        "why": None,
        "sources": ["GPU code in fused_adam"],
    }
    said = real.envbuild("diff", *operands, "--all").stdout
    locked = json.loads((ROOT / "recipes" / REF.replace(":", "/") / "lock.json").read_bytes())
    compared = re.findall(r"^\S+ .* version files$", said, re.MULTILINE)
    assert len(compared) == len(locked["python"]) + 1, "and DeepSpeed"
