"""Ed25519 keys: the one that this machine signs verdicts with, and those of others that it believes."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.disk import unless_full

TEXT = "ENVBUILD_SIGNING_KEY"
"""The environment variable that holds a private key's PEM text."""

FILE = "ENVBUILD_SIGNING_KEY_FILE"
"""The environment variable that names a private key's file."""

TRUSTED = "ENVBUILD_TRUSTED_KEYS"
"""The environment variable that names files (or folders of ``*.pem``) of public keys, separated by colons."""

NAME = "signing-key.pem"
"""The private key in the user's config folder."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_MAKE = "make one with `openssl genpkey -algorithm ed25519 -out key.pem`"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """Who may have signed. ``raw`` are the 32 bytes of RFC 8032."""

    raw: bytes

    @property
    def pem(self) -> str:
        """The PEM text (SubjectPublicKeyInfo, RFC 8410), as OpenSSL writes it."""
        text = base64.b64encode(self._der()).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"

    @property
    def id(self) -> str:
        """SHA-256 of the DER form: ``openssl pkey -pubin -outform DER | sha256sum``."""
        return hashlib.sha256(self._der()).hexdigest()

    def _der(self) -> bytes:
        """RFC 8410, section 4: a fixed prefix and the key."""
        return bytes.fromhex("302a300506032b6570032100") + self.raw

    def holds(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` is this key's over ``message``."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key. ``seed`` are the 32 bytes of RFC 8032, never printed; ``where`` says where it came from."""

    seed: bytes = field(repr=False)
    where: str

    @property
    def public(self) -> PublicKey:
        """What others need to check this key's signatures."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return PublicKey(raw=Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature; the same for the same message."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)


def signing_key(environ: Mapping[str, str], folder: Path) -> SigningKey:
    """The key to sign with: the environment's, or the user's own, which is made on first use.

    Args:
        environ: ``ENVBUILD_SIGNING_KEY`` (PEM text) or ``ENVBUILD_SIGNING_KEY_FILE`` (a file) go before the own one.
        folder: the user's config folder; made if need be, for its owner alone.

    Raises:
        EnvbuildError: exit 2: no usable Ed25519 key, a key that others can read, or a folder that takes none.
    """
    given = _given(environ)
    if given is not None:
        return given
    path = folder / NAME
    if not path.exists():
        _make(path)
    return _own(path)


def known_key(environ: Mapping[str, str], folder: Path) -> SigningKey | None:
    """As :func:`signing_key`, but ``None`` where there is none yet: reading makes no key."""
    given = _given(environ)
    if given is not None:
        return given
    return _own(folder / NAME) if (folder / NAME).exists() else None


def trusted_keys(
    environ: Mapping[str, str], folder: Path, files: Sequence[Path] = ()
) -> tuple[PublicKey, ...]:
    """Whose verdicts are believed: the own key's, those of ``files``, and those of ``ENVBUILD_TRUSTED_KEYS``.

    Raises:
        EnvbuildError: exit 2 for a file that is missing or holds no Ed25519 public key.
    """
    own = known_key(environ, folder)
    found = [] if own is None else [own.public]
    named = [Path(part).expanduser() for part in environ.get(TRUSTED, "").split(os.pathsep) if part]
    return tuple(dict.fromkeys([*found, *keys_in((*files, *named))]))


def keys_in(files: Sequence[Path]) -> tuple[PublicKey, ...]:
    """The public keys of PEM files, and of the ``*.pem`` of folders.

    Raises:
        EnvbuildError: exit 2 for a file that is missing or holds no Ed25519 public key.
    """
    found: list[PublicKey] = []
    for path in files:
        for file in sorted(path.glob("*.pem")) if path.is_dir() else [path]:
            found += public_keys(_read(file), where=str(file))
    return tuple(dict.fromkeys(found))


def public_keys(data: bytes, *, where: str) -> list[PublicKey]:
    """Every public key of a PEM text.

    Raises:
        EnvbuildError: exit 2: none in it, another kind of key, or a private one.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found = []
    for block in _BLOCK.finditer(data):
        if b"PRIVATE" in block[1]:
            raise _bad(
                f"{where} holds a private key; a public one is needed",
                "`envbuild key show > FILE` prints the public key; keep the private one where it is",
                where,
            )
        try:
            key = load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _bad(f"a key cannot be read: {error}", "write it with `envbuild key show`", where) from None
        if not isinstance(key, Ed25519PublicKey):
            raise _bad("a key is not an Ed25519 key", "write it with `envbuild key show`", where)
        found.append(PublicKey(raw=key.public_bytes_raw()))
    if not found:
        raise _bad("this holds no public key in PEM form", "write it with `envbuild key show > FILE`", where)
    return found


def private_key(data: bytes, *, where: str) -> SigningKey:
    """The private key of a PEM text.

    Raises:
        EnvbuildError: exit 2: none in it, another kind, a public one, or one with a passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise _bad(
            "the key has a passphrase", "`openssl pkey -in OLD -out NEW` writes it without", where
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _bad("this is no private key in PEM form (PKCS#8)", _MAKE, where) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _bad("this is not an Ed25519 key", _MAKE, where)
    return SigningKey(seed=key.private_bytes_raw(), where=where)


def _given(environ: Mapping[str, str]) -> SigningKey | None:
    text, file = environ.get(TEXT), environ.get(FILE)
    if text and file:
        raise _bad(f"both {TEXT} and {FILE} are set", "unset one of them", None)
    if text:
        return private_key(text.encode(), where=TEXT)
    return private_key(_read(Path(file).expanduser()), where=file) if file else None


def _own(path: Path) -> SigningKey:
    """Read the user's own key, which nobody else may read (as ssh has it)."""
    data = _read(path)
    if path.stat().st_mode & 0o077:
        raise _bad("others than its owner can read the signing key", f"chmod 600 {path}", str(path))
    return private_key(data, where=str(path))


def _make(path: Path) -> None:
    """Write a new key whole or not at all; of two processes the first one's key stays.

    ``link`` refuses a name that exists, where ``rename`` would replace a key that has already signed.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{NAME}.")  # made with mode 0600
        partial = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(handle)
        with suppress(FileExistsError):
            os.link(partial, path)
    except OSError as error:
        elsewhere = f"{_MAKE} and name it in {FILE}"
        other = _bad(f"no signing key can be made: {error.strerror}", elsewhere, str(path))
        raise unless_full(error, path, other, hint=f"free some space, or {elsewhere}") from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _bad(
            f"the key cannot be read: {error.strerror}", "name a PEM file that is there", str(path)
        ) from None


def _bad(message: str, hint: str, where: str | None) -> EnvbuildError:
    return EnvbuildError("bad-key", message, where=where, hint=hint, exit=Exit.USAGE)
