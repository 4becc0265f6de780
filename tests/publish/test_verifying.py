"""What `envbuild verify` says of an image whose proofs hold, lack, were changed, or are somebody else's."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from registrywrites import (
    BUNDLE,
    CYCLONEDX,
    LOCK,
    PROVENANCE,
    SBOM,
    TEST_RESULT,
    of_kind,
    put_manifest,
    replace_proof,
)
from shop import GATE, Shop

from envbuild.gate import SigningKey
from envbuild.publish.sigstore import to_bundles

pytestmark = pytest.mark.network
OTHER = "sha256:" + "d" * 64
STRANGER = SigningKey(seed=b"\x07" * 32, where="a stranger's")


def statuses(value: Any) -> dict[str, str]:
    return {finding["question"]: finding["status"] for finding in value["findings"]}


def said(value: Any, question: str) -> str:
    [text] = [finding["text"] for finding in value["findings"] if finding["question"] == question]
    return str(text)


@pytest.fixture
def published(shop: Shop) -> Shop:
    """Published with a passing verdict by the gate's key; the proofs are this machine's."""
    done = shop.publish("--verdict", str(shop.verdict(GATE)), "--key", shop.pem(GATE))
    assert done.code == 0, done.err
    return shop


@pytest.fixture
def customer(published: Shop, tmp_path: Path) -> Shop:
    """Another machine, which has neither recipes nor keys nor a store."""
    return published.elsewhere(tmp_path / "customer-store", tmp_path / "customer")


@pytest.fixture
def keys(published: Shop) -> list[str]:
    """``--key`` of the publisher and of the gate."""
    own = published.cli("key", "show").out
    (published.cli.folder / "own.pem").write_text(own)
    return ["--key", str(published.cli.folder / "own.pem"), "--key", published.pem(GATE)]


def test_everything_holds_for_who_has_the_keys(customer: Shop, keys: list[str]) -> None:
    done = customer.cli("verify", f"{customer.repo}:v1", "--json", *keys)
    assert done.code == 0, done.out + done.err
    assert done.value["holds"] is True
    assert set(statuses(done.value).values()) == {"holds"}
    assert list(statuses(done.value)) == [
        "manifest", "config", "layers", "lock", "tag", "SBOM", "provenance", "verdict",
    ]  # fmt: skip
    assert "2 × NVIDIA H200, driver 580.159.04" in said(done.value, "verdict")
    assert done.value["ref"] == "small:v1"
    assert len(done.value["keys"]) == 2
    assert not any(Path(customer.cli.env["ENVBUILD_STORE"]).glob("oci/blobs/sha256/*"))
    text = customer.cli("verify", f"{customer.repo}@{customer.image.digest}", *keys)
    assert text.code == 0
    assert text.out.count("✓") == 7  # without a tag there is nothing to say of it


def test_without_keys_nothing_that_is_signed_is_believed(customer: Shop, keys: list[str]) -> None:
    done = customer.cli("verify", f"{customer.repo}:v1", "--json")
    assert done.code == 5
    assert done.value["error"]["id"] == "not-verified"
    assert statuses(done.value) == {
        "manifest": "holds", "config": "holds", "layers": "holds", "lock": "holds", "tag": "holds",
        "SBOM": "fails", "provenance": "fails", "verdict": "fails",
    }  # fmt: skip
    assert "not trusted here" in said(done.value, "SBOM")
    half = customer.cli("verify", f"{customer.repo}:v1", "--json", *keys[:2])
    assert [name for name, status in statuses(half.value).items() if status == "fails"] == ["verdict"]
    other = customer.cli("verify", f"{customer.repo}:v1", "--key", customer.pem(STRANGER))
    assert other.code == 5
    assert "error[not-verified]" in other.err
    assert "hint: " in other.err
    assert "✗ verdict" in other.out


def changed_payload(bundle: Any, old: bytes, new: bytes) -> Any:
    """The bundle with other content under the old signature."""
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    assert old in payload
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(old, new)).decode()
    return bundle


@pytest.mark.parametrize(
    ("question", "artifact_type", "predicate", "change", "text"),
    [
        ("verdict", BUNDLE, TEST_RESULT, lambda b: changed_payload(b, b"NVIDIA H200", b"NVIDIA H100"), "changed"),
        ("SBOM", BUNDLE, SBOM, lambda b: changed_payload(b, b"other", b"0ther"), "changed"),
        ("provenance", BUNDLE, PROVENANCE, lambda b: changed_payload(b, b"small", b"large"), "changed"),
        ("SBOM", CYCLONEDX, None, lambda b: {**b, "components": b["components"][1:]}, "not the one that is signed"),
        ("SBOM", BUNDLE, SBOM, lambda b: b"no bundle", ""),
        ("lock", LOCK, None, lambda b: {**b, "created": "2026-01-02T03:04:06Z"}, ""),
        ("lock", LOCK, None, lambda b: b"{", ""),
    ],
)  # fmt: skip
def test_a_proof_that_was_changed_in_the_registry(
    customer: Shop, keys: list[str], question: str, artifact_type: str, predicate: str | None, change: Any, text: str
) -> None:  # fmt: skip
    [entry] = of_kind(customer, artifact_type, predicate)
    replace_proof(customer, entry, change)
    done = customer.cli("verify", f"{customer.repo}:v1", "--json", *keys)
    assert done.code == 5, done.out
    assert statuses(done.value)[question] == "fails"
    assert text in said(done.value, question)
    assert statuses(done.value)["manifest"] == "holds"


@pytest.mark.parametrize(
    ("question", "artifact_type", "predicate", "status"),
    [
        ("verdict", BUNDLE, TEST_RESULT, "fails"),  # the tag promises one
        ("SBOM", BUNDLE, SBOM, "missing"),
        ("provenance", BUNDLE, PROVENANCE, "missing"),
        ("lock", LOCK, None, "missing"),
    ],
)
def test_a_proof_that_was_taken_away(
    customer: Shop, keys: list[str], question: str, artifact_type: str, predicate: str | None, status: str
) -> None:
    [entry] = of_kind(customer, artifact_type, predicate)
    replace_proof(customer, entry, None)
    done = customer.cli("verify", f"{customer.repo}:v1", "--json", *keys)
    assert done.code == 5
    assert statuses(done.value)[question] == status


def test_a_verdict_that_is_no_pass_is_said_to_be_none(published: Shop, keys: list[str]) -> None:
    """Somebody with the gate's key attached a later one that says otherwise: the newest counts."""
    with_verdict(published, result="candidate", started="2026-01-21T10:00:00Z")
    done = published.cli("verify", f"{published.repo}:v1", "--json", *keys)
    assert statuses(done.value)["verdict"] == "fails"
    assert "'candidate'" in said(done.value, "verdict")


def with_verdict(published: Shop, **changes: Any) -> None:
    """In the registry the gate's verdict gives way to another one of the gate's, with changes."""
    [bundle] = to_bundles(published.verdict(GATE, **changes).read_bytes())
    [entry] = of_kind(published, BUNDLE, TEST_RESULT)
    replace_proof(published, entry, lambda _: bundle)


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"lock": OTHER}, OTHER), ({"started": "2999-01-01T00:00:00Z"}, "started at 2999-01-01T00:00:00Z")],
)
def test_a_verdict_of_another_lock_or_from_the_future_does_not_hold(
    published: Shop, keys: list[str], changes: dict[str, str], text: str
) -> None:
    with_verdict(published, **changes)
    done = published.cli("verify", f"{published.repo}:v1", "--json", *keys)
    assert done.code == 5
    assert [name for name, status in statuses(done.value).items() if status != "holds"] == ["verdict"]
    assert text in said(done.value, "verdict")


def test_a_verdict_of_another_suite_holds_with_a_note_and_promotes_where_the_suite_is_named(
    published: Shop, keys: list[str]
) -> None:
    with_verdict(published, suite=OTHER)
    done = published.cli("verify", f"{published.repo}:v1", "--json", *keys)
    assert done.code == 0, done
    assert said(done.value, "verdict").endswith(f"; note: by the suite {OTHER}, which is not this envbuild's")
    pinned = f"{published.repo}@{published.image.digest}"
    refused = published.cli.fails(6, "verdict-of-another-suite", "promote", pinned, *keys)
    assert f"--suite {OTHER}" in refused.err
    assert published.cli("promote", pinned, *keys, "--suite", OTHER).code == 0


def test_publish_takes_a_verdict_of_another_suite_where_it_is_named(shop: Shop) -> None:
    file = str(shop.verdict(GATE, suite=OTHER))
    refused = shop.publish("--verdict", file, "--key", shop.pem(GATE))
    assert (refused.code, shop.tags()) == (6, [])
    assert "error[verdict-of-another-suite]" in refused.err
    assert shop.publish("--verdict", file, "--key", shop.pem(GATE), "--suite", OTHER).code == 0
    assert shop.tags() == ["v1"]


def test_a_candidate_lacks_its_verdict(shop: Shop) -> None:
    shop.publish("--allow-unverified")
    done = shop.cli("verify", f"{shop.repo}:v1-candidate", "--json")
    assert done.code == 5
    assert statuses(done.value)["verdict"] == "missing"
    assert "a candidate" in said(done.value, "verdict")


def test_a_tag_that_somebody_moved_to_an_unproven_image(customer: Shop, keys: list[str]) -> None:
    manifest = customer.ask("manifests/v1")
    manifest["annotations"]["org.opencontainers.image.title"] = "small:v2"
    put_manifest(customer, "v1", manifest)
    done = customer.cli("verify", f"{customer.repo}:v1", "--json", *keys)
    assert done.code == 5
    assert statuses(done.value)["verdict"] == "fails"
    assert statuses(done.value)["lock"] == "missing"


def test_an_image_that_envbuild_did_not_make(shop: Shop, tmp_path: Path) -> None:
    busybox = tmp_path / "layer"
    (busybox / "bin").mkdir(parents=True)
    (busybox / "bin/sh").write_text("#!nothing\n")
    layer = tmp_path / "layer.tar"
    subprocess.run(["tar", "-C", str(busybox), "-cf", str(layer), "bin"], check=True)
    name = f"{shop.repo}:foreign"
    subprocess.run(["/usr/bin/docker", "import", str(layer), name], check=True, capture_output=True)
    try:
        subprocess.run(["/usr/bin/docker", "push", "-q", name], check=True, capture_output=True)
    finally:
        subprocess.run(["/usr/bin/docker", "image", "rm", name], check=True, capture_output=True)
    done = shop.cli("verify", name, "--json")
    assert done.code == 5
    assert statuses(done.value) == {
        "manifest": "holds", "config": "holds", "layers": "holds", "lock": "missing",
        "SBOM": "missing", "provenance": "missing", "verdict": "fails",
    }  # fmt: skip
    assert "no label says that envbuild made this image" in said(done.value, "lock")
    shop.cli.fails(3, "no-lock-attached", "smoke", name)
    pulled = shop.cli("pull", name, "--json")
    assert pulled.code == 0


def test_what_is_no_image(shop: Shop) -> None:
    shop.cli.fails(4, "not-found", "verify", f"{shop.repo}:v1")
    shop.publish("--by-digest")
    manifest = shop.ask(f"manifests/{shop.image.digest}")
    odd = json.loads(json.dumps(manifest))
    odd["layers"][0]["mediaType"] = "application/vnd.example.thing"
    put_manifest(shop, "odd", odd)
    done = shop.cli.fails(3, "unusable-image", "verify", f"{shop.repo}:odd")
    assert "application/vnd.example.thing" in done.err
    shop.cli.fails(3, "unusable-image", "pull", f"{shop.repo}:odd")
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
    put_manifest(shop, "several", index)
    shop.cli.fails(3, "unusable-image", "verify", f"{shop.repo}:several")
    shop.cli.fails(2, "bad-image-reference", "verify", "small:v1")


def test_a_proven_image_under_another_tag(customer: Shop, keys: list[str]) -> None:
    """Whoever may write there lets v2 mean the old image, with all its proofs."""
    put_manifest(customer, "v2", customer.ask("manifests/v1"), as_it_is=customer.image.manifest_bytes)
    done = customer.cli("verify", f"{customer.repo}:v2", "--json", *keys)
    assert done.code == 5
    assert [name for name, status in statuses(done.value).items() if status != "holds"] == ["tag"]
    assert "small:v1" in said(done.value, "tag")


def test_with_a_gate_key_no_other_key_vouches_for_a_verdict(shop: Shop) -> None:
    """The builder signed a verdict of its own making."""
    assert shop.publish("--verdict", str(shop.verdict())).code == 0
    assert shop.cli("verify", f"{shop.repo}:v1").code == 0
    done = shop.cli("verify", f"{shop.repo}:v1", "--gate-key", shop.pem(GATE), "--json")
    assert [name for name, status in statuses(done.value).items() if status != "holds"] == ["verdict"]
    assert "not trusted here" in said(done.value, "verdict")


@pytest.mark.parametrize("kind", ["slsaprovenance1", "cyclonedx", TEST_RESULT])
def test_cosign_finds_and_checks_the_proofs_in_the_registry(
    published: Shop, keys: list[str], kind: str, tmp_path: Path
) -> None:
    """Without envbuild, without any service of Sigstore's: keys only."""
    root = tmp_path / "root.json"
    root.write_text('{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')
    own, gate = keys[1], keys[3]
    signer, other = (gate, own) if kind == TEST_RESULT else (own, gate)

    def attested(key: str) -> subprocess.CompletedProcess[str]:
        options = [
            "--new-bundle-format",
            f"--trusted-root={root}",
            "--insecure-ignore-tlog",
            "--allow-http-registry",
        ]
        command = ["cosign", "verify-attestation", *options, "--key", key, "--type", kind, published.pinned]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    done = attested(signer)
    assert done.returncode == 0, done.stderr
    said = json.loads(base64.b64decode(json.loads(done.stdout.splitlines()[0])["payload"]))
    assert said["subject"][0]["digest"]["sha256"] == published.image.digest.removeprefix("sha256:")
    assert attested(other).returncode != 0
