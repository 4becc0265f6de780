"""Verdict files: signed when written, checked when read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.envelope import add_signature, open_envelope, read_limited, seal
from envbuild.gate.keys import PublicKey, SigningKey
from envbuild.gate.statement import parse_statement, statement_bytes
from envbuild.gate.verdict import Verdict
from envbuild.oci.disk import unless_full
from envbuild.readback import readable


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedVerdict:
    """A verdict whose signature was checked. ``keys`` are the trusted ones that signed; ``data`` the file's bytes."""

    verdict: Verdict
    keys: tuple[PublicKey, ...]
    data: bytes

    def accepted_by(self, key: SigningKey) -> SignedVerdict:
        """The same, signed by ``key`` too: who accepts a verdict vouches for it where only that key is known."""
        data = add_signature(self.data, key, where="verdict")
        return SignedVerdict(verdict=self.verdict, keys=(*self.keys, key.public), data=data)


def sign_verdict(verdict: Verdict, key: SigningKey) -> bytes:
    """The file's content: a DSSE envelope around the in-toto statement. The same input gives the same bytes."""
    return seal(statement_bytes(verdict), key)


def parse_signed(data: bytes, *, trusted: Sequence[PublicKey], where: str) -> SignedVerdict:
    """Check a file's content: first who signed it, then what it says.

    Raises:
        EnvbuildError: exit 6: no envelope, not signed, by no trusted key, changed after signing, no verdict in it, or
            a verdict that contradicts itself.
    """
    opened = open_envelope(data, trusted, where=where)
    return SignedVerdict(verdict=parse_statement(opened.payload, where=where), keys=opened.keys, data=data)


def read_signed(path: Path, *, trusted: Sequence[PublicKey]) -> SignedVerdict:
    """As :func:`parse_signed`, of a file.

    Raises:
        EnvbuildError: exit 6, also when the file cannot be read.
    """
    return parse_signed(read_limited(path), trusted=trusted, where=str(path))


def read_verdict(path: Path, *, trusted: Sequence[PublicKey]) -> Verdict:
    """The verdict of a file that one of ``trusted`` signed.

    Raises:
        EnvbuildError: exit 6, as :func:`read_signed`.
    """
    return read_signed(path, trusted=trusted).verdict


def write_verdict(path: Path, data: bytes, *, key: PublicKey) -> None:
    """Write a verdict's file; it is complete or not there. A device or pipe is written to, never replaced.

    Args:
        path: its folder is made if need be.
        data: what :func:`sign_verdict` gave.
        key: one of those that signed it.

    Raises:
        EnvbuildError: exit 2 when it cannot be written, 7 when the disk is full; 6 when it could not be read again.
    """
    where = str(path)
    readable(lambda: data, lambda content: parse_signed(content, trusted=[key], where=where), where=where)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        other = EnvbuildError(
            "verdict-not-written",
            f"the verdict cannot be written: {error.strerror}",
            where=str(path),
            hint="choose another file with --report",
            exit=Exit.USAGE,
        )
        raise unless_full(
            error, path, other, hint="free some space, or choose another file with --report"
        ) from error
