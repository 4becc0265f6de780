"""Verdicts as a machine with two GPUs writes them, signed by any key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from envbuild.gate import SigningKey, Verdict, expect, sign_verdict, signing_key, subject_of
from envbuild.lock import Lock, lock_bytes
from envbuild.oci.digest import of_bytes
from envbuild.oci.image import Image
from envbuild.recipe import load_recipe, parse_ref
from envbuild.smoke.checks import applicable
from envbuild.smoke.fingerprint import fingerprint

_GPU = {
    "name": "NVIDIA H200", "uuid": "u", "capability": [9, 0], "memory": 150_000_000_000, "processors": 132,
    "torch": "machine code", "operator": "machine code",
}  # fmt: skip
_HOST = {
    "kernel": "6.1.0", "machine": "x86_64", "system": "Debian", "libc": "glibc 2.36", "python": "3.11.2",
    "executable": "/opt/venv/bin/python", "cpus": 32, "memory": 1 << 38, "shm": 8 << 30, "gpus": 2,
    "driver": "580.159.04",
}  # fmt: skip
_CHECK = {
    "status": "passed", "seconds": 1.5, "cause": None, "expected": None, "seen": None, "hint": None,
    "numbers": {}, "warnings": [], "output": "",
}  # fmt: skip


def own_key(home: Path) -> SigningKey:
    """The key that ``envbuild`` makes and uses in this home."""
    return signing_key({}, home / ".config/envbuild")


def verdict_about(
    image: Image | None, locked: Lock, ref: str, recipes: Path, **changes: Any
) -> dict[str, Any]:
    """The content of a passing verdict, with changes. Without an image it is about none."""
    expected = expect(load_recipe(parse_ref(ref), [recipes]), locked, gpus_given=2)
    return {
        "kind": "envbuild.verdict", "format": 2,
        "subject": None if image is None else msgspec.to_builtins(subject_of(ref, image)),
        "result": "passed", "why": "all checks passed on 2 GPUs", "suite": fingerprint(), "engine": "docker",
        "lock": of_bytes(lock_bytes(locked)),
        "driver": "580.159.04", "gpus": [{"index": index, **_GPU} for index in range(2)], "host": _HOST,
        "environment": {}, "started": "2026-01-20T10:00:00Z", "seconds": 61.5,
        "expectations": expected.to_dict(),
        "checks": [{"id": c.id, "reason": c.reason, "timeout": c.timeout, **_CHECK} for c in applicable(expected)],
        **changes,
    }  # fmt: skip


def signed(value: dict[str, Any], key: SigningKey) -> bytes:
    """The file, signed though the content may contradict itself."""
    return sign_verdict(msgspec.convert(value, type=Verdict), key)
