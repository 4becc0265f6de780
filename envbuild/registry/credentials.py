"""Credentials for registries: from variables, as CI has them, and from where `docker login` leaves them."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.document import read_json
from envbuild.registry.reference import parse_repository

REGISTRY = "ENVBUILD_REGISTRY"
USER = "ENVBUILD_REGISTRY_USER"
PASSWORD = "ENVBUILD_REGISTRY_PASSWORD"  # noqa: S105 - a variable's name
TOKEN = "ENVBUILD_REGISTRY_TOKEN"  # noqa: S105 - a variable's name
AUTH_CONFIG = "DOCKER_AUTH_CONFIG"
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """User and password, an identity token (OAuth2 refresh token), or a ready bearer token. Never printed."""

    user: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)
    bearer: str | None = field(default=None, repr=False)

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header (RFC 7617)."""
        return (
            "Basic "
            + base64.b64encode(f"{self.user}:{self.password}".encode("utf-8", "surrogateescape")).decode()
        )


def find_credentials(accounts: Sequence[str], environ: Mapping[str, str]) -> Credentials | None:
    """Look ``accounts`` (host names as `docker login` writes them) up.

    Asked in this order: ``ENVBUILD_REGISTRY_TOKEN``, or ``ENVBUILD_REGISTRY_USER`` and ``_PASSWORD``, which are the
    account with the registry that ``ENVBUILD_REGISTRY`` names and no other; ``$DOCKER_AUTH_CONFIG``, the text of a
    ``config.json``; ``$REGISTRY_AUTH_FILE``, ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``,
    ``$XDG_RUNTIME_DIR/containers/auth.json``. In each of these: a credential helper for the host, the credential
    store, the file's own ``auths``.

    Raises:
        EnvbuildError: variables contradict each other, a file is not JSON, or a credential helper fails (exit 2).
    """
    found = _from_variables(accounts, environ)
    if found is not None:
        return found
    if environ.get(AUTH_CONFIG):
        found = _in_text(environ[AUTH_CONFIG].encode(), accounts, environ, Path(AUTH_CONFIG))
    for path in _files(environ) if found is None else ():
        try:
            text = path.read_bytes()
        except OSError:
            continue
        found = _in_text(text, accounts, environ, path)
        if found is not None:
            break
    return found


def check_variables(environ: Mapping[str, str]) -> None:
    """Refuse variables that cannot be meant so, before anything is sent.

    Raises:
        EnvbuildError: ``registry-credentials`` (exit 2).
    """
    user, password, token = (environ.get(name, "") for name in (USER, PASSWORD, TOKEN))
    if bool(user) != bool(password):
        raise _bad_variables(f"{USER if user else PASSWORD} is set without {PASSWORD if user else USER}")
    if token and user:
        raise _bad_variables(f"both {TOKEN} and {USER} are set")
    if (user or token) and not environ.get(REGISTRY):
        raise _bad_variables(
            f"{TOKEN if token else USER} is set, and no {REGISTRY} says whom it may be sent to"
        )


def _from_variables(accounts: Sequence[str], environ: Mapping[str, str]) -> Credentials | None:
    check_variables(environ)
    user, token = environ.get(USER, ""), environ.get(TOKEN, "")
    if not (user or token) or parse_repository(environ[REGISTRY]).accounts[0] not in accounts:
        return None
    return Credentials(user=user, password=environ.get(PASSWORD, ""), bearer=token or None)


def _in_text(
    text: bytes, accounts: Sequence[str], environ: Mapping[str, str], path: Path
) -> Credentials | None:
    try:
        config = read_json(text)
    except ValueError as error:
        raise _bad_config(path, "is not JSON") from error
    return _in_config(config, accounts, environ, path) if isinstance(config, dict) else None


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
    if not _HELPER.fullmatch(helper):
        raise _bad_config(path, f"names {helper[:80]!r}, which is not the name of a credential helper")
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
        answer = read_json(done.stdout)
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


def _bad_variables(what: str) -> EnvbuildError:
    return EnvbuildError(
        "registry-credentials",
        what,
        hint=f"set {REGISTRY}=REGISTRY/REPOSITORY with {USER} and {PASSWORD}, or with {TOKEN} alone",
        exit=Exit.USAGE,
    )
