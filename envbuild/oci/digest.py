"""Digests (OCI image spec, descriptor.md, "Digests"). Only sha256 is written or accepted.

A digest that comes from outside and becomes a path goes through :class:`Digest` or :class:`Sha256`, which admit
nothing else, so that no other text can name a file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import IO, Self, TypeGuard

from envbuild.errors import EnvbuildError, Exit

SHA256_FORM = r"\A[0-9a-f]{64}\Z"
"""The form of a bare sha256, as a pattern for parsers."""
DIGEST_FORM = r"\Asha256:[0-9a-f]{64}\Z"
"""The form of a digest, as a pattern for parsers."""
CHUNK = 1 << 20

_SHA256 = re.compile(SHA256_FORM)
_DIGEST = re.compile(DIGEST_FORM)
_SHOWN = 100
_NULL = stat.S_IFCHR, os.makedev(1, 3)
"""The kind and number of ``/dev/null``."""


class BadDigest(EnvbuildError, ValueError):
    """A text that is no digest. A ``ValueError`` as well: a parser that meets it refuses its document."""

    def __init__(self, text: object, wanted: str) -> None:
        shown = repr(text)
        shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
        super().__init__(
            "bad-digest",
            f"{shown} is not {wanted}",
            hint="the document that names it is damaged or hostile: have it written again "
            "(`envbuild image REF`, `envbuild bundle REF`), or copy it again from where it was written",
            exit=Exit.VERIFY,
        )


class Digest(str):
    """``sha256:`` and 64 lower-case hex digits, and nothing else.

    Raises:
        BadDigest: the text is none (exit 5).
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """The text, checked."""
        if not isinstance(text, str) or _DIGEST.match(text) is None:
            raise BadDigest(text, "a sha256 digest (sha256: and 64 lower-case hex digits)")
        return super().__new__(cls, text)

    @property
    def hex(self) -> str:
        """The hex digits: the name of the file or folder that the digest stands for."""
        return self[len("sha256:") :]


class Sha256(str):
    """64 lower-case hex digits, and nothing else: a digest as locks write it.

    Raises:
        BadDigest: the text is none (exit 5).
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """The text, checked."""
        if not isinstance(text, str) or _SHA256.match(text) is None:
            raise BadDigest(text, "the 64 lower-case hex digits of a sha256")
        return super().__new__(cls, text)


def is_digest(text: object) -> TypeGuard[str]:
    """Whether ``text`` is a well-formed sha256 digest (``sha256:`` and 64 lower-case hex digits)."""
    return isinstance(text, str) and _DIGEST.match(text) is not None


def is_sha256(text: object) -> TypeGuard[str]:
    """Whether ``text`` is the 64 lower-case hex digits of a sha256."""
    return isinstance(text, str) and _SHA256.match(text) is not None


def of_bytes(data: bytes) -> str:
    """The digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """The digest of a file's content, read in constant memory.

    Raises:
        OSError: it cannot be read, or is no regular file (a FIFO or a device has no end).
    """
    hasher = hashlib.sha256()
    with open_regular(path) as stream:
        while chunk := stream.read(CHUNK):
            hasher.update(chunk)
    return "sha256:" + hasher.hexdigest()


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file, or a link to one, for reading; never waits for a writer, as opening a FIFO does.

    ``/dev/null`` is taken as the empty file that it stands for.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) and (stat.S_IFMT(status.st_mode), status.st_rdev) != _NULL:
        os.close(handle)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or is longer.
    """
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"has more than {limit} bytes", str(path))
    return data


def canonical_json(value: object) -> bytes:
    """The one JSON spelling that envbuild hashes: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
