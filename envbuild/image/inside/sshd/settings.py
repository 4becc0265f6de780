"""What the variables ask for, and where things lie for this user."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KEYS, KEYS_FILE = "ENVBUILD_AUTHORIZED_KEYS", "ENVBUILD_AUTHORIZED_KEYS_FILE"
PORT, CLUSTER = "ENVBUILD_SSH_PORT", "ENVBUILD_SSH_CLUSTER"
DEFAULT_KEYS_FILE = Path("/etc/ssh/authorized_keys")
SSH = Path("/etc/ssh")


class Refusal(Exception):
    """Why it does not start: what is wrong, and a hint."""

    def __init__(self, message: str, hint: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``user`` runs the server; ``state`` holds what this start writes; ``cluster`` are ssh_config(5) host patterns."""

    user: str
    root: bool
    home: Path
    state: Path
    host_keys: Path
    port: int
    keys: str
    keys_file: Path | None
    cluster: tuple[str, ...]


def settings(environ: Mapping[str, str]) -> Settings:
    """Read the variables.

    Raises:
        Refusal: a port that is none, or a user without an account.
    """
    uid = os.getuid()
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        raise Refusal(
            f"user {uid} has no account in this image, so nobody can log in as it",
            "start the container with --user envbuild (1000), or as root",
        ) from None
    root, home = uid == 0, Path(account.pw_dir)
    state = Path("/run/envbuild-sshd") if root else home / ".envbuild-sshd"
    given = environ.get(KEYS_FILE)
    return Settings(
        user=account.pw_name,
        root=root,
        home=home,
        state=state,
        host_keys=SSH if root else state,
        port=_port(environ.get(PORT) or ("22" if root else "2222")),
        keys=environ.get(KEYS, ""),
        keys_file=Path(given) if given else DEFAULT_KEYS_FILE if DEFAULT_KEYS_FILE.exists() else None,
        cluster=_cluster(environ.get(CLUSTER, "")),
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise Refusal(f"{PORT}={text!r} is no port", "give a number from 1 to 65535, such as 2222")
    return int(text)


def _cluster(text: str) -> tuple[str, ...]:
    words = text.replace(",", " ").split()
    if words in ([], ["0"]):
        return ()
    return ("*",) if words == ["1"] else tuple(words)
