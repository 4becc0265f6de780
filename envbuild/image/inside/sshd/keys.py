"""Authorized keys, gathered and checked; host keys, made where there are none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .settings import KEYS, KEYS_FILE, Refusal, Settings

KEYGEN = "/usr/bin/ssh-keygen"
HOST_KEY_TYPES = ("ed25519", "ecdsa")
"""Made at once, while an RSA key takes seconds; one that a volume brings is used too."""

_GIVE = (
    f'give a public key: docker run -e {KEYS}="$(cat ~/.ssh/id_ed25519.pub)", or mount a file of them and name it in '
    f"{KEYS_FILE}"
)


def gather(settings: Settings) -> list[str]:
    """The lines of every source: the variable, the file, the user's own authorized_keys.

    They are copied, because a mounted file belongs to another user, which sshd's StrictModes refuses.

    Raises:
        Refusal: a source cannot be read, a line is no public key, or there is no key at all.
    """
    sources = [(KEYS, settings.keys)]
    if settings.keys_file is not None:
        sources.append((str(settings.keys_file), _read(settings.keys_file)))
    own = settings.home / ".ssh/authorized_keys"
    if own.is_file():
        sources.append((str(own), _read(own)))
    lines: dict[str, None] = {}
    for name, text in sources:
        if "PRIVATE KEY" in text:
            raise Refusal(
                f"{name} holds a private key", "that one stays with you: give the file that ends in .pub"
            )
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                fingerprint(line.strip(), f"{name}, line {number}")
                lines[line.strip()] = None
    if not lines:
        raise Refusal("no authorized key, and passwords are never asked for: nobody could log in", _GIVE)
    return list(lines)


def fingerprint(line: str, where: str) -> str:
    """A public key's size, hash, comment and type.

    Raises:
        Refusal: it is no public key.
    """
    told = subprocess.run([KEYGEN, "-l", "-f", "-"], input=line, capture_output=True, text=True, check=False)
    if told.returncode != 0:
        raise Refusal(f"{where}: no public key: {line[:60]!r}", _GIVE)
    return told.stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except IsADirectoryError:
        raise Refusal(
            f"{path} is a folder",
            "docker run -v makes a folder where the host has no such file: check its path",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise Refusal(f"{path} cannot be read: {why}", _GIVE) from None


def host_keys(settings: Settings) -> list[Path]:
    """The private host keys; those that are missing are made now, so that no two containers share one.

    They are made in ``/etc/ssh``, where a volume keeps them, or, where that is read-only, in the state folder.
    """
    folder = settings.host_keys
    if not os.access(folder, os.W_OK) and not all((folder / _name(kind)).exists() for kind in HOST_KEY_TYPES):
        folder = settings.state
    made = [_host_key(folder, kind) for kind in HOST_KEY_TYPES]
    return made + [key for key in [folder / _name("rsa")] if key.exists()]


def _name(kind: str) -> str:
    return f"ssh_host_{kind}_key"


def _host_key(folder: Path, kind: str) -> Path:
    """Made under another name and linked into place: of two containers with one volume, both take the first's."""
    key = folder / _name(kind)
    if key.exists():
        return key
    new = folder / f".new-{os.uname().nodename}-{os.getpid()}-{kind}"
    made = subprocess.run(
        [KEYGEN, "-q", "-t", kind, "-N", "", "-C", "envbuild", "-f", str(new)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise Refusal(f"no host key: {made.stderr.strip()}", f"is {folder} full or read-only?", status=1)
    public = new.with_name(new.name + ".pub")
    try:
        os.link(new, key)
        public.replace(key.with_name(key.name + ".pub"))
    except FileExistsError:
        public.unlink(missing_ok=True)
    finally:
        new.unlink(missing_ok=True)
    return key
