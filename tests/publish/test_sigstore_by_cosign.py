"""cosign, which shares no code with envbuild, checks what envbuild signed, and envbuild what cosign signed."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from needed import need

from envbuild.errors import EnvbuildError
from envbuild.gate.envelope import add_signature, open_envelope, seal
from envbuild.gate.keys import SigningKey
from envbuild.lock import read_lock
from envbuild.oci.digest import canonical_json
from envbuild.publish.provenance import provenance
from envbuild.publish.sbom import sbom
from envbuild.publish.sigstore import from_bundle, to_bundles
from envbuild.publish.statements import sbom_statement

LOCK = Path(__file__).parents[2] / "recipes/pytorch-cuda/v2.7/lock.json"
KEY = SigningKey(seed=b"1" * 32, where="test")
OTHER = SigningKey(seed=b"2" * 32, where="test")
MANIFEST = b'{"schemaVersion": 2}'
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()


@pytest.fixture
def cosign(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """cosign, in a folder of its own, without a network: the root of trust is an empty one, since keys are given."""
    need("cosign")
    (tmp_path / "root.json").write_text(
        '{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'
    )
    (tmp_path / "manifest.json").write_bytes(MANIFEST)
    (tmp_path / "key.pem").write_text(KEY.public.pem)
    (tmp_path / "other.pem").write_text(OTHER.public.pem)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "COSIGN_PASSWORD": "",
            "http_proxy": "http://127.0.0.1:9",
        }
        command = ["cosign", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def holds(cosign: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> Callable[..., bool]:
    """Whether cosign takes a bundle for a statement by ``key`` about ``file``."""

    def holds(bundle: bytes, *, key: str = "key.pem", file: str = "manifest.json") -> bool:
        (tmp_path / "bundle.json").write_bytes(bundle)
        done = cosign(
            "verify-blob-attestation", "--new-bundle-format", "--insecure-ignore-tlog", "--trusted-root", "root.json",
            "--bundle", "bundle.json", "--key", key, "--type", "slsaprovenance1", file,
        )  # fmt: skip
        assert done.returncode == 0 or "failed to verify signature" in done.stderr, done.stderr
        return done.returncode == 0

    return holds


def origin() -> bytes:
    statement = provenance(read_lock(LOCK), name="example/demo", digest=DIGEST, builder_version="1.0")
    return canonical_json(statement)


def test_cosign_takes_the_provenance_and_the_bill_of_materials(holds: Callable[..., bool]) -> None:
    bill = sbom_statement(sbom(read_lock(LOCK)), name="example/demo", digest=DIGEST)
    for payload in (origin(), bill):
        [bundle] = to_bundles(seal(payload, KEY))
        assert holds(bundle)
        assert not holds(bundle, key="other.pem")
        assert not holds(bundle, file="other.pem")


def test_cosign_takes_each_of_two_signatures(holds: Callable[..., bool]) -> None:
    first, second = to_bundles(add_signature(seal(origin(), KEY), OTHER, where="test"))
    assert holds(first)
    assert holds(second, key="other.pem")
    assert not holds(first, key="other.pem")


def test_cosign_refuses_what_was_changed(holds: Callable[..., bool]) -> None:
    [bundle] = to_bundles(seal(origin(), KEY))
    value = json.loads(bundle)
    payload = origin().replace(b'"envbuild":"1.0"', b'"envbuild":"1.1"')
    assert payload != origin()
    value["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    assert not holds(json.dumps(value).encode())


def test_envbuild_takes_what_cosign_signed(
    cosign: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    private = Ed25519PrivateKey.from_private_bytes(KEY.seed)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "private.pem").write_bytes(pem)
    (tmp_path / "predicate.json").write_text('{"a": 1}')
    imported = cosign("import-key-pair", "--key", "private.pem", "--output-key-prefix", "mine")
    assert imported.returncode == 0, imported.stderr
    signed = cosign(
        "attest-blob", "--yes", "--new-bundle-format", "--tlog-upload=false", "--key", "mine.key",
        "--predicate", "predicate.json", "--type", "https://example.com/a", "--bundle", "by-cosign.json",
        "manifest.json",
    )  # fmt: skip
    assert signed.returncode == 0, signed.stderr
    envelope = from_bundle((tmp_path / "by-cosign.json").read_bytes(), where="by-cosign.json")
    opened = open_envelope(envelope, [KEY.public], where="by-cosign.json")
    statement = json.loads(opened.payload)
    assert statement["predicateType"] == "https://example.com/a"
    assert statement["subject"][0]["digest"] == {"sha256": DIGEST.removeprefix("sha256:")}
    with pytest.raises(EnvbuildError):
        open_envelope(envelope, [OTHER.public], where="by-cosign.json")
