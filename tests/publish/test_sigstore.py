"""Sigstore bundles: what goes in comes out, what is damaged is refused, and nobody's signature is lost or invented."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.envelope import add_signature, open_envelope, seal
from envbuild.gate.keys import SigningKey
from envbuild.publish.sigstore import MEDIA_TYPE, from_bundle, to_bundles

KEY = SigningKey(seed=b"1" * 32, where="test")
OTHER = SigningKey(seed=b"2" * 32, where="test")
PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1"}'


def opened(bundle: bytes, key: SigningKey = KEY) -> bytes:
    return open_envelope(from_bundle(bundle, where="test"), [key.public], where="test").payload


def changed(change: Callable[[Any], object]) -> bytes:
    """A good bundle in which ``change`` changed something."""
    value = json.loads(to_bundles(seal(PAYLOAD, KEY))[0])
    change(value)
    return json.dumps(value).encode()


@given(st.binary(max_size=300))
def test_an_envelope_comes_back_as_it_was(payload: bytes) -> None:
    envelope = seal(payload, KEY)
    [bundle] = to_bundles(envelope)
    assert from_bundle(bundle, where="test") == envelope
    assert opened(bundle) == payload
    assert to_bundles(envelope) == [bundle]


def test_it_has_the_form_of_version_0_3() -> None:
    value = json.loads(to_bundles(seal(PAYLOAD, KEY))[0])
    der = base64.b64decode("".join(KEY.public.pem.splitlines()[1:-1]))
    assert value["mediaType"] == MEDIA_TYPE == "application/vnd.dev.sigstore.bundle.v0.3+json"
    hint = value["verificationMaterial"]["publicKey"]["hint"]
    assert hint == base64.b64encode(hashlib.sha256(der).digest()).decode()
    assert base64.b64decode(value["dsseEnvelope"]["payload"]) == PAYLOAD
    assert [set(item) for item in value["dsseEnvelope"]["signatures"]] == [{"sig"}]


def test_each_signature_gets_a_bundle_of_its_own() -> None:
    first, second = to_bundles(add_signature(seal(PAYLOAD, KEY), OTHER, where="test"))
    assert opened(first, KEY) == opened(second, OTHER) == PAYLOAD
    for bundle, key in ((first, OTHER), (second, KEY)):
        with pytest.raises(EnvbuildError) as caught:
            opened(bundle, key)
        assert caught.value.id == "verdict-by-unknown-key"


def test_a_hint_that_is_no_digest_names_no_key() -> None:
    assert opened(changed(lambda v: v["verificationMaterial"]["publicKey"].update(hint="my key"))) == PAYLOAD
    assert opened(changed(lambda v: v["verificationMaterial"]["publicKey"].clear())) == PAYLOAD


def test_what_sigstore_adds_is_passed_over() -> None:
    assert (
        opened(changed(lambda v: v["verificationMaterial"].update(tlogEntries=[{"logIndex": "1"}])))
        == PAYLOAD
    )
    old = "application/vnd.dev.sigstore.bundle+json;version=0.3"
    assert opened(changed(lambda v: v.update(mediaType=old))) == PAYLOAD


def test_a_changed_payload_or_signature_is_found() -> None:
    other = json.loads(to_bundles(seal(b"other", KEY))[0])["dsseEnvelope"]
    for key in ("payload", "signatures"):
        with pytest.raises(EnvbuildError) as caught:
            opened(changed(lambda v, key=key: v["dsseEnvelope"].update({key: other[key]})))  # type: ignore[misc]
        assert (caught.value.id, caught.value.exit) == ("verdict-signature-wrong", Exit.GATE)


def _keyid(value: Any) -> None:
    value["dsseEnvelope"]["signatures"][0]["keyid"] = OTHER.public.id


def _certificate(value: Any) -> None:
    value["verificationMaterial"] = {"certificate": {"rawBytes": "MAAK"}}


def _message(value: Any) -> None:
    del value["dsseEnvelope"]
    value["messageSignature"] = {"signature": "MAAK"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"), "version=0.1"),
        (lambda v: v.pop("mediaType"), "mediaType"),
        (lambda v: v.pop("verificationMaterial"), "verificationMaterial"),
        (lambda v: v["dsseEnvelope"].update(signatures=[]), "0 signatures"),
        (lambda v: v["dsseEnvelope"]["signatures"].append({"sig": "AAAA"}), "2 signatures"),
        (lambda v: v["dsseEnvelope"].update(payloadType="text/plain"), "text/plain"),
        (lambda v: v["dsseEnvelope"].update(payload=7), "payload"),
        (_keyid, OTHER.public.id),
        (_certificate, "certificate"),
        (_message, "no statement"),
    ],
)
def test_what_is_no_usable_bundle_is_refused_by_name(change: Callable[[Any], object], says: str) -> None:
    with pytest.raises(EnvbuildError, match=says) as caught:
        from_bundle(changed(change), where="somewhere")
    error = caught.value
    assert (error.id, error.exit, error.where) == ("bad-sigstore-bundle", Exit.VERIFY, "somewhere")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b'{"mediaType": "\xff"}'])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(EnvbuildError) as caught:
        from_bundle(data, where="test")
    assert caught.value.id == "bad-sigstore-bundle"


def test_an_envelope_that_nobody_signed_becomes_no_bundle() -> None:
    envelope = json.loads(seal(PAYLOAD, KEY))
    envelope["signatures"] = []
    with pytest.raises(EnvbuildError) as caught:
        to_bundles(json.dumps(envelope).encode())
    assert (caught.value.id, caught.value.exit) == ("envelope-not-signed", Exit.GATE)
    with pytest.raises(EnvbuildError) as caught:
        to_bundles(b"no envelope")
    assert caught.value.exit is Exit.GATE
