"""Readers of what is signed and attached: envelopes, statements, verdicts, bundles, keys, reports, provenances."""

from __future__ import annotations

import base64
import json
from random import Random
from typing import Any

import msgspec
from fuzz_engine import Reader
from fuzz_mutation import Make, either, json_of, text_of

from envbuild.errors import EnvbuildError
from envbuild.gate.envelope import add_signature, open_envelope, seal
from envbuild.gate.keys import SigningKey, private_key, public_keys
from envbuild.gate.page import page
from envbuild.gate.report import parse_report
from envbuild.gate.signed import parse_signed
from envbuild.gate.statement import parse_statement, statement_of
from envbuild.gate.verdict import Verdict
from envbuild.publish.believing import Believed, locks_named
from envbuild.publish.proofs import _manifest
from envbuild.publish.sigstore import from_bundle, to_bundles
from envbuild.smoke import FORMAT
from envbuild.smoke.checks import applicable
from envbuild.smoke.fingerprint import fingerprint
from envbuild.smoke.model import parse_expectations

KEY = SigningKey(seed=bytes(range(32)), where="test")
TRUSTED = (KEY.public,)
PRIVATE = (
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
    "-----END PRIVATE KEY-----\n"
)
_DIGEST = "sha256:" + "ab" * 32
EXPECTATIONS: dict[str, Any] = {
    "format": FORMAT,
    "ref": "small:v1",
    "complete": True,
    "declared": {"torch": "2.7.1"},
    "packages": {"torch": "2.7.1"},
    "hashed": ["torch"],
    "imports": ["torch"],
    "cuda": "12.6",
    "libraries": [{"stem": "libcudart", "package": "nvidia-cuda-runtime-cu12", "version": "12.6.77"}],
    "operator": {"name": "fused_adam", "module": "m", "file": "f.so", "architectures": ["9.0"]},
    "driver_floor": "525.60",
    "gpus": {"wanted": 1, "given": 1},
}
HOST = {
    "kernel": "6.1.0",
    "machine": "x86_64",
    "system": "Debian",
    "libc": "glibc 2.36",
    "python": "3.11.2",
    "executable": "/opt/venv/bin/python",
    "cpus": 32,
    "memory": 1 << 38,
    "shm": 8 << 30,
    "gpus": 1,
    "driver": "580.1",
}
GPU = {
    "index": 0,
    "name": "NVIDIA H200",
    "uuid": "u",
    "capability": [9, 0],
    "memory": 150_000_000_000,
    "processors": 132,
    "torch": "machine code",
    "operator": "machine code",
}
_CHECKS = [
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
    for check in applicable(parse_expectations(EXPECTATIONS))
]
REPORT = {
    "format": FORMAT,
    "suite": fingerprint(),
    "result": "passed",
    "why": "all passed",
    "started": "2026-11-20T10:00:00Z",
    "seconds": 61.5,
    "expectations": EXPECTATIONS,
    "host": HOST,
    "gpus": [GPU],
    "environment": {"NCCL_NVLS_ENABLE": "0"},
    "checks": _CHECKS,
}
VERDICT = {
    "kind": "envbuild.verdict",
    "format": 2,
    "subject": {"ref": "small:v1", "manifest": _DIGEST, "config": _DIGEST, "diff_ids": [_DIGEST]},
    "result": "passed",
    "why": "all passed",
    "suite": _DIGEST,
    "engine": "docker",
    "lock": _DIGEST,
    "driver": "580.1",
    "gpus": [GPU],
    "host": HOST,
    "environment": {},
    "started": "2026-11-20T10:00:00Z",
    "seconds": 61.5,
    "expectations": EXPECTATIONS,
    "checks": _CHECKS,
}
STATEMENT = json.loads(msgspec.json.encode(statement_of(msgspec.convert(VERDICT, Verdict))))
PROVENANCE = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "x", "digest": {"sha256": "ab" * 32}}],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {
        "buildDefinition": {"resolvedDependencies": [{"name": "lock.json", "digest": {"sha256": "cd" * 32}}]}
    },
}
ENVELOPE = json.loads(seal(msgspec.json.encode(STATEMENT), KEY))
BUNDLE = json.loads(to_bundles(seal(b"{}", KEY))[0])
REFERRER = {
    "subject": {"digest": _DIGEST},
    "layers": [{"digest": _DIGEST}],
    "artifactType": "x",
    "annotations": {"a": "b"},
}


def _signed(make: Make) -> Make:
    """What ``make`` gives as the payload of an envelope that is signed rightly."""

    def made(rng: Random) -> bytes:
        payload = make(rng)
        if rng.random() < 0.2:
            value = {**ENVELOPE, "payload": base64.b64encode(payload).decode()}
            return json.dumps(value).encode()
        return seal(payload, KEY)

    return Make(made, *(seal(seed, KEY) for seed in make.seeds))


def _verdict(data: bytes) -> None:
    parse_signed(data, trusted=TRUSTED, where="here")


def _statement(data: bytes) -> None:
    """A statement, and, now and then since it takes long, the page that is made of the verdict in it."""
    verdict = parse_statement(data, where="here")
    if len(data) % 10 == 0:
        page(verdict, TRUSTED)


def _envelope(data: bytes) -> None:
    failed = None
    for read in (
        lambda: add_signature(data, SigningKey(seed=bytes(32), where="x"), where="here"),
        lambda: to_bundles(data),
    ):
        try:
            read()
        except EnvbuildError as error:
            failed = error
    open_envelope(data, TRUSTED, where="here")
    if failed is not None:
        raise failed


def _sigstore(data: bytes) -> None:
    open_envelope(from_bundle(data, where="here"), TRUSTED, where="here")


def _provenance(data: bytes) -> None:
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError):  # as believe has it, which this stands for without a signature
        return
    if isinstance(value, dict):
        believed = Believed(statement=value, keys=())
        believed.is_about(_DIGEST)
        list(locks_named(believed))


READERS = [
    Reader(name="verdict-envelope", make=json_of(ENVELOPE), read=_envelope),
    Reader(name="verdict", make=either(json_of(ENVELOPE), _signed(json_of(STATEMENT))), read=_verdict),
    Reader(name="verdict-statement", make=json_of(STATEMENT), read=_statement),
    Reader(name="suite-report", make=json_of(REPORT), read=lambda data: parse_report(data, where="here")),
    Reader(name="sigstore-bundle", make=json_of(BUNDLE), read=_sigstore),
    Reader(name="provenance", make=json_of(PROVENANCE), read=_provenance),
    Reader(name="referrer", make=json_of(REFERRER), read=lambda data: _manifest(data, _DIGEST)),
    Reader(
        name="public-key",
        make=text_of(KEY.public.pem, KEY.public.pem * 2, PRIVATE),
        read=lambda data: public_keys(data, where="here"),
    ),
    Reader(
        name="private-key",
        make=text_of(PRIVATE, KEY.public.pem),
        read=lambda data: private_key(data, where="here"),
    ),
]
