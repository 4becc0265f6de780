"""Signed envelopes as Sigstore bundles, version 0.3 (github.com/sigstore/protobuf-specs), which cosign checks too.

A bundle has one signature: one envelope with several becomes several bundles. The key is named by the bundle's hint,
SHA-256 of its DER form in base64, as cosign names keys, and not by the signature's ``keyid``: cosign passes over a
signature with a ``keyid`` that is not its own way to name the key. Entries of transparency logs are not made, and
ignored where there are any: whom to believe is told by keys.
"""

from __future__ import annotations

import base64
import binascii
import re

import msgspec

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.envelope import PAYLOAD_TYPE, Envelope, Signature, envelope_bytes, parse_envelope
from envbuild.oci.digest import canonical_json

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""What is written."""

_READ = (MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3")
_KEY_ID = re.compile(r"[0-9a-f]{64}")


class _PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    hint: str = ""


class _Material(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What helps to check the signature. Sigstore itself would have a certificate here."""

    public_key: _PublicKey | None = None


class _Bundle(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The file. Unknown keys are ignored: nothing is read from them."""

    media_type: str
    verification_material: _Material
    dsse_envelope: Envelope | None = None


def to_bundles(envelope: bytes, *, where: str = "envelope") -> list[bytes]:
    """One bundle for each signature of an envelope, in its order. The same envelope gives the same bytes.

    Args:
        envelope: the content of a DSSE envelope.
        where: what to call it in an error.

    Raises:
        EnvbuildError: exit 6: no envelope, or one without a signature.
    """
    parsed = parse_envelope(envelope, where=where)
    if not parsed.signatures:
        raise EnvbuildError(
            "envelope-not-signed",
            "the envelope has no signature, and a Sigstore bundle needs one",
            where=where,
            hint="sign it: `envbuild smoke` and `envbuild publish` sign what they write",
            exit=Exit.GATE,
        )
    return [_bundle(parsed, signature) for signature in parsed.signatures]


def from_bundle(data: bytes, *, where: str) -> bytes:
    """The envelope in a bundle, for :func:`envbuild.gate.envelope.open_envelope`: no signature is checked here.

    Its signature has the ``keyid`` of the key that the hint names, where the hint is the digest of a key.

    Args:
        data: the bundle's content.
        where: what to call it in an error.

    Raises:
        EnvbuildError: exit 5: no bundle of version 0.3, not around an in-toto statement, signed for a certificate
            and not by a key, not exactly one signature, or a hint and a ``keyid`` that name two keys.
    """
    bundle = _parse(data, where)
    envelope = bundle.dsse_envelope
    if envelope is None:
        raise _bad("it is around no statement (dsseEnvelope), but around something else", where)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise _bad(f"its payload is {envelope.payload_type!r}; a statement's is {PAYLOAD_TYPE!r}", where)
    if len(envelope.signatures) != 1:
        raise _bad(f"it has {len(envelope.signatures)} signatures; a bundle has one", where)
    if bundle.verification_material.public_key is None:
        raise _bad("it is signed for a certificate; envbuild believes keys only", where)
    signature = envelope.signatures[0]
    named = _key_id(bundle.verification_material.public_key.hint)
    if named and signature.keyid and signature.keyid != named:
        raise _bad(f"its hint names the key {named}, its signature {signature.keyid}", where)
    keyid = signature.keyid or named or ""
    return envelope_bytes(
        msgspec.structs.replace(envelope, signatures=(Signature(keyid=keyid, sig=signature.sig),))
    )


def _bundle(envelope: Envelope, signature: Signature) -> bytes:
    keyid = signature.keyid
    hint = base64.b64encode(bytes.fromhex(keyid)).decode() if _KEY_ID.fullmatch(keyid) else keyid
    return canonical_json(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}},
            "dsseEnvelope": {
                "payload": envelope.payload,
                "payloadType": envelope.payload_type,
                "signatures": [{"sig": signature.sig}],
            },
        }
    )


def _parse(data: bytes, where: str) -> _Bundle:
    try:
        bundle = msgspec.json.decode(data, type=_Bundle)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"it cannot be read: {error}", where) from None
    if bundle.media_type not in _READ:
        raise _bad(f"its media type is {bundle.media_type!r}; {MEDIA_TYPE!r} is read", where)
    return bundle


def _key_id(hint: str) -> str | None:
    """The key's id in a hint, where the hint is the digest of a key."""
    try:
        digest = base64.b64decode(hint, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == 32 else None


def _bad(message: str, where: str) -> EnvbuildError:
    return EnvbuildError(
        "bad-sigstore-bundle",
        f"this is no Sigstore bundle that envbuild can use: {message}",
        where=where,
        hint="`envbuild publish REF REGISTRY/REPO` writes such bundles, and so does `cosign attest --key` with "
        "--new-bundle-format",
        exit=Exit.VERIFY,
    )
