"""A report as the suite writes it, of a full pass on two GPUs, and the image that it is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from envbuild.gate.expect import expect
from envbuild.gate.keys import SigningKey
from envbuild.gate.report import parse_report
from envbuild.gate.verdict import make_verdict, subject_of
from envbuild.lock import read_lock
from envbuild.oci.digest import of_bytes
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.recipe.load import load_recipe, parse_ref
from envbuild.smoke import FORMAT
from envbuild.smoke.checks import CHECKS
from envbuild.smoke.fingerprint import fingerprint

RECIPES = Path(__file__).parent.parent.parent / "recipes"


def make_image(seed: str = "") -> Image:
    layers = tuple(
        Layer(
            name=name,
            digest=of_bytes(f"{seed}{name}".encode()),
            diff_id=of_bytes(f"{seed}{name}tar".encode()),
            size=9,
        )
        for name in ("base", "torch")
    )
    run = RunConfig(env={}, entrypoint=(), cmd=("bash",), working_dir="/", user="", labels={})
    return Image(layers=layers, run=run, created="2026-01-01T00:00:00Z")


@pytest.fixture
def recipe():
    return load_recipe(parse_ref("pytorch-cuda:v2.7"), [RECIPES])


@pytest.fixture
def lock(recipe):
    return read_lock(recipe.lock_path)


@pytest.fixture
def expected(recipe, lock):
    return expect(recipe, lock, gpus_given=2)


@pytest.fixture
def image():
    return make_image()


@pytest.fixture
def subject(image):
    return subject_of("pytorch-cuda:v2.7", image)


@pytest.fixture
def other_image():
    return make_image("other")


@pytest.fixture
def report(expected) -> dict[str, Any]:
    gpu = {
        "name": "NVIDIA H200",
        "uuid": "u",
        "capability": [9, 0],
        "memory": 150_000_000_000,
        "processors": 132,
        "torch": "machine code",
        "operator": "machine code",
    }
    return {
        "format": FORMAT,
        "suite": fingerprint(),
        "result": "passed",
        "why": f"all {len(CHECKS)} checks passed on 2 GPUs",
        "started": "2026-11-20T10:00:00Z",
        "seconds": 61.5,
        "expectations": json.loads(json.dumps(expected.to_dict())),
        "host": {
            "kernel": "6.1.0",
            "machine": "x86_64",
            "system": "Debian GNU/Linux 12 (bookworm)",
            "libc": "glibc 2.36",
            "python": "3.11.2",
            "executable": "/opt/venv/bin/python",
            "cpus": 32,
            "memory": 1 << 38,
            "shm": 8 << 30,
            "gpus": 2,
            "driver": "580.159.04",
        },
        "gpus": [{"index": index, **gpu} for index in range(2)],
        "environment": {"NCCL_NVLS_ENABLE": "0"},
        "checks": [
            {
                "id": check.id,
                "reason": check.reason,
                "status": "passed",
                "timeout": check.timeout,
                "seconds": 1.5,
                "cause": None,
                "expected": None,
                "seen": None,
                "hint": None,
                "numbers": {"n": 1.25},
                "warnings": [],
                "output": "",
            }
            for check in CHECKS
        ],
    }


@pytest.fixture
def key():
    return SigningKey(seed=bytes(range(32)), where="test")


@pytest.fixture
def stranger():
    return SigningKey(seed=bytes(32), where="somebody else's")


@pytest.fixture
def verdict_of(subject, expected):
    """The verdict that a (changed) report gives."""

    def make(report, about=subject, lock="sha256:" + "c" * 64):
        got = parse_report(json.dumps(report).encode(), where="test")
        return make_verdict(got, about, expected=got.expected, engine="docker 26.1", lock=lock)

    return make
