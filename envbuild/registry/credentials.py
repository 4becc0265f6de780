"""Credentials for registries, from where `docker login` and `podman login` leave them."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit

_HELPER_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """User and password, or an identity token (OAuth2 refresh token). Never printed."""

    user: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find_credentials(accounts: Sequence[str], environ: Mapping[str, str]) -> Credentials | None:
    """Look ``accounts`` (host names as `docker login` writes them) up.

    Asked in this order: ``$REGISTRY_AUTH_FILE``, ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``,
    ``$XDG_RUNTIME_DIR/containers/auth.json``. In each: a credential helper for the host, the credential store,
    the file's own ``auths``.

    Raises:
        EnvbuildError: a file is not JSON, or a credential helper fails (exit 2).
    """
    for path in _files(environ):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        try:
            config = json.loads(text)
        except ValueError as error:
            raise _bad_config(path, "is not JSON") from error
        if isinstance(config, dict):
            found = _in_config(config, accounts, environ, path)
            if found is not None:
                return found
    return None


def _files(environ: Mapping[str, str]) -> list[Path]:
    files: list[Path] = []
    if environ.get("REGISTRY_AUTH_FILE"):
        files.append(Path(environ["REGISTRY_AUTH_FILE"]))
    if environ.get("DOCKER_CONFIG"):
        files.append(Path(environ["DOCKER_CONFIG"]) / "config.json")
    elif environ.get("HOME"):
        files.append(Path(environ["HOME"]) / ".docker" / "config.json")
    if environ.get("XDG_RUNTIME_DIR"):
        files.append(Path(environ["XDG_RUNTIME_DIR"]) / "containers" / "auth.json")
    return files


def _in_config(
    config: Mapping[str, object], accounts: Sequence[str], environ: Mapping[str, str], path: Path
) -> Credentials | None:
    helpers, store, auths = config.get("credHelpers"), config.get("credsStore"), config.get("auths")
    for account in accounts:
        helper = helpers.get(account) if isinstance(helpers, dict) else None
        helper = helper or store
        if isinstance(helper, str):
            found = _from_helper(helper, account, environ, path)
            if found is not None:
                return found
        entry = auths.get(account) if isinstance(auths, dict) else None
        if isinstance(entry, dict):
            found = _from_entry(entry, path, account)
            if found is not None:
                return found
    return None


def _from_entry(entry: Mapping[str, object], path: Path, account: str) -> Credentials | None:
    token = entry.get("identitytoken")
    identity = token if isinstance(token, str) and token else None
    user, password = entry.get("username"), entry.get("password")
    auth = entry.get("auth")
    if isinstance(auth, str) and auth:
        try:
            user, _, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except ValueError as error:
            raise _bad_config(path, f"has an 'auth' for {account} that is not base64") from error
    if identity is None and not (isinstance(user, str) and isinstance(password, str) and user):
        return None
    return Credentials(user=str(user or ""), password=str(password or ""), identity_token=identity)


def _from_helper(helper: str, account: str, environ: Mapping[str, str], path: Path) -> Credentials | None:
    """Ask ``docker-credential-<helper>`` (docker-credential-helpers, "get")."""
    command = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [command, "get"],
            input=account.encode(),
            capture_output=True,
            env=dict(environ),
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = "is not installed" if isinstance(error, FileNotFoundError) else "cannot be run"
        raise _bad_config(path, f"names the credential helper {command}, which {reason}") from error
    if done.returncode != 0:
        if b"not found" in done.stdout.lower():
            return None
        raise _bad_config(path, f"names the credential helper {command}, which failed for {account}")
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_config(
            path, f"names the credential helper {command}, whose answer is malformed"
        ) from error
    if user == "<token>":
        return Credentials(user="", password="", identity_token=secret)
    return Credentials(user=user, password=secret)


def _bad_config(path: Path, what: str) -> EnvbuildError:
    return EnvbuildError(
        "registry-credentials",
        f"{path} {what}",
        hint="run `docker login` for the registry again, or name another folder with DOCKER_CONFIG",
        exit=Exit.USAGE,
        where=str(path),
    )
