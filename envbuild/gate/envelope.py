"""DSSE: a payload, what it is, and signatures over both (github.com/secure-systems-lab/dsse, protocol 1.0.2)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.keys import PublicKey, SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""The in-toto attestation framework's media type of a statement."""

LARGEST = 64 << 20
"""Bytes that are read of a file, before it is refused as no verdict. One of 16 checks on 8 GPUs has about 0.1 MB."""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature. ``keyid`` only helps to find the key; ``sig`` is base64."""

    keyid: str = ""
    sig: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The file. Unknown keys are ignored, as DSSE asks; they are not signed and nothing is read from them."""

    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A payload whose signature was checked, and by whom it is."""

    payload: bytes
    keys: tuple[PublicKey, ...]


def seal(payload: bytes, key: SigningKey) -> bytes:
    """Sign ``payload`` and give the file's content. The same payload and key give the same bytes."""
    return envelope_bytes(
        Envelope(
            payload=base64.b64encode(payload).decode(),
            payload_type=PAYLOAD_TYPE,
            signatures=(_sign(payload, PAYLOAD_TYPE, key),),
        )
    )


def add_signature(data: bytes, key: SigningKey, *, where: str) -> bytes:
    """The same envelope, signed by ``key`` too (once)."""
    envelope = parse_envelope(data, where=where)
    payload = _plain(envelope.payload, where)
    if any(found.keyid == key.public.id for found in envelope.signatures):
        return data
    own = _sign(payload, envelope.payload_type, key)
    return envelope_bytes(msgspec.structs.replace(envelope, signatures=(*envelope.signatures, own)))


def open_envelope(data: bytes, trusted: Sequence[PublicKey], *, where: str) -> Opened:
    """Check who signed, and only then give the payload.

    One good signature by a trusted key suffices, and signatures by keys that nobody here knows are ignored. One that
    names a trusted key and is not that key's is never ignored: something was changed.

    Args:
        data: the file's content.
        trusted: the keys that are believed.
        where: what to call the file in an error.

    Raises:
        EnvbuildError: exit 6: no envelope, another payload type, no signature, none by a trusted key, a wrong one.
    """
    envelope = parse_envelope(data, where=where)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise _bad(f"the payload is {envelope.payload_type!r}; a verdict's is {PAYLOAD_TYPE!r}", where)
    payload = _plain(envelope.payload, where)
    message = encoding(envelope.payload_type, payload)
    good: list[PublicKey] = []
    for signature in envelope.signatures:
        raw = _plain(signature.sig, where)
        named = [key for key in trusted if key.id == signature.keyid]
        for key in named or ([] if signature.keyid else trusted):
            if key.holds(raw, message):
                good.append(key)
                break
        else:
            if named:
                raise EnvbuildError(
                    "verdict-signature-wrong",
                    f"the verdict names the key {signature.keyid}, but that key did not sign this content: "
                    "it was changed after it was signed",
                    where=where,
                    hint="take the file as `envbuild smoke REF --report FILE` wrote it, or run that again",
                    exit=Exit.GATE,
                )
    if not good:
        raise _untrusted(envelope, where)
    return Opened(payload=payload, keys=tuple(dict.fromkeys(good)))


def encoding(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of type and payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _untrusted(envelope: Envelope, where: str) -> EnvbuildError:
    if not envelope.signatures:
        return _unsigned(where)
    ids = ", ".join(signature.keyid or "(a key without id)" for signature in envelope.signatures)
    return EnvbuildError(
        "verdict-by-unknown-key",
        f"the verdict is signed by a key that is not trusted here: {ids}",
        where=where,
        hint="on the machine that made it run `envbuild key show > pub.pem`; then here give `--key pub.pem`, "
        "or name the file in ENVBUILD_TRUSTED_KEYS",
        exit=Exit.GATE,
    )


def parse_envelope(data: bytes, *, where: str) -> Envelope:
    """The envelope in a file's content; no signature is checked.

    Raises:
        EnvbuildError: exit 6: it is none.
    """
    try:
        return msgspec.json.decode(data, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = None
        if isinstance(value, dict) and value.get("kind") == "envbuild.verdict":
            raise _unsigned(where) from None
        raise _bad(f"this is no signed verdict (a DSSE envelope): {error}", where) from None


def _plain(text: str, where: str) -> bytes:
    """Decode base64; DSSE has readers take both alphabets."""
    try:
        return base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad(f"payload or signature is no base64: {error}", where) from None


def _sign(payload: bytes, payload_type: str, key: SigningKey) -> Signature:
    signed = key.sign(encoding(payload_type, payload))
    return Signature(keyid=key.public.id, sig=base64.b64encode(signed).decode())


def envelope_bytes(envelope: Envelope) -> bytes:
    """The file's content; the same envelope gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(envelope), indent=1) + b"\n"


def read_limited(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        EnvbuildError: exit 6 when it cannot be read or is larger than any verdict.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise EnvbuildError(
            "no-verdict",
            f"the verdict cannot be read: {error.strerror}",
            where=str(path),
            hint="`envbuild smoke REF --report FILE` makes one, on a machine with GPUs",
            exit=Exit.GATE,
        ) from error
    if len(data) > LARGEST:
        raise _bad(f"the file is larger than {LARGEST} bytes", str(path))
    return data


def _unsigned(where: str) -> EnvbuildError:
    return EnvbuildError(
        "verdict-not-signed",
        "the verdict has no signature",
        where=where,
        hint="run `envbuild smoke REF --report FILE` with this version; it signs what it writes",
        exit=Exit.GATE,
    )


def _bad(message: str, where: str) -> EnvbuildError:
    return EnvbuildError(
        "bad-verdict",
        message,
        where=where,
        hint="make a new one: run `envbuild smoke REF --report FILE` on a machine with GPUs",
        exit=Exit.GATE,
    )
