"""Authorization as a registry asks for it: basic (RFC 7617), and tokens (distribution, "Token Authentication")."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode, urlsplit

from envbuild.oci.document import read_json
from envbuild.registry.credentials import TOKEN, Credentials, check_variables, find_credentials
from envbuild.registry.reference import Repository, speaks_plain
from envbuild.registry.refusals import LOGIN, LOGIN_WRITE, Refusal, refusal
from envbuild.store.faults import Fault
from envbuild.store.http import Http, joined

_PARAMETER = re.compile(r'(?<![A-Za-z])([A-Za-z]+)=(?:"([^"]*)"|([^\s,]+))')
_EARLY = 10.0
"""Seconds before its end that a token counts as over."""
_SHORTEST = 60.0
"""A token's life in seconds where the answer names none (distribution spec, "Token Response Fields")."""
_LONGEST = 86_400.0
"""More than this is not counted."""
_OLD = f"does not take the token of {TOKEN}: it is wrong or has expired"

Scopes = tuple[str, ...]


class Authorization:
    """Headers for one repository's requests, by scope. Threads may share it; nothing is sent before it is asked for.

    Args:
        repository: whose registry asks.
        http: the connections.
        environ: where credentials are found.

    Raises:
        EnvbuildError: variables that contradict each other (exit 2).
    """

    def __init__(self, repository: Repository, http: Http, environ: Mapping[str, str]) -> None:
        check_variables(environ)
        self._repository = repository
        self._http = http
        self._environ = environ
        self._guard = threading.Lock()
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._ready = False
        self._headers: dict[Scopes, tuple[str, float]] = {}

    def headers(self, scopes: Scopes) -> dict[str, str]:
        """The ``Authorization`` header for ``scopes``; none until the registry has asked for it.

        Raises:
            Fault: no token is to be had.
        """
        with self._guard:
            if self._challenge is None:
                return {}
            header, ends = self._headers.get(scopes, ("", 0.0))
            if time.monotonic() > ends - _EARLY:
                header = self._answer(scopes)
            return {"Authorization": header}

    def meet(self, challenge: str, scopes: Scopes, *, refused: str | None) -> None:
        """Take the challenge of an answer 401; ``refused`` is the header that was not good enough.

        Raises:
            Fault: it cannot be met.
        """
        with self._guard:
            known = self._headers.get(scopes)
            if known is not None and known[0] != refused:
                return  # another thread has been here
            self._challenge = _parse(challenge)
            header = self._answer(scopes)
            if header == refused and self._ready:
                raise _not_allowed(_OLD, scopes)

    def refused(self, fault: Refusal, scopes: Scopes) -> Refusal:
        """The fault that an answer 401 to an authorized request is: ``fault``, or what is known better."""
        return _not_allowed(_OLD, scopes) if self._ready else fault

    def _answer(self, scopes: Scopes) -> str:
        """Answer the challenge (RFC 9110, section 11), and remember the header."""
        assert self._challenge is not None
        scheme, parameters = self._challenge
        credentials = find_credentials(self._repository.accounts, self._environ)
        if scheme == "basic":
            if credentials is None or not credentials.user:
                raise _not_allowed("asks for a password", scopes)
            header, life = credentials.basic, float("inf")
        elif scheme == "bearer" and credentials is not None and credentials.bearer is not None:
            header, life, self._ready = f"Bearer {credentials.bearer}", float("inf"), True
        else:
            header, life = self._token(scheme, parameters, credentials, scopes)
        self._headers[scopes] = header, time.monotonic() + life
        return header

    def _token(
        self, scheme: str, parameters: Mapping[str, str], credentials: Credentials | None, scopes: Scopes
    ) -> tuple[str, float]:
        """A new token, and its life in seconds."""
        realm = parameters.get("realm", "")
        try:
            parts = urlsplit(joined(realm, ""))
        except Fault as fault:
            raise _not_allowed(
                f"asks for a token at an address that cannot be used: it {fault}", scopes
            ) from fault
        plain = parts.scheme == "http" and speaks_plain(parts.netloc, self._environ)
        if scheme != "bearer" or not (parts.scheme == "https" or plain):
            raise _not_allowed("asks for a way to log in that is not known or not safe", scopes)
        wanted = _union(scopes, parameters.get("scope", "").split())
        query = [("service", parameters["service"])] if "service" in parameters else []
        if credentials is not None and credentials.identity_token is not None:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": "envbuild",
                "scope": " ".join(wanted),
                **dict(query),
            }
            answer = self._ask(realm, None, form, scopes)
        else:
            headers = {"Authorization": credentials.basic} if credentials is not None else None
            text = urlencode([*query, *(("scope", scope) for scope in wanted)])
            answer = self._ask(f"{realm}{'&' if parts.query else '?'}{text}", headers, None, scopes)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str):
            raise _not_allowed("gave no token", scopes)
        life = answer.get("expires_in")
        seconds = min(life, _LONGEST) if isinstance(life, int | float) else _SHORTEST
        return f"Bearer {token}", float(seconds)

    def _ask(
        self, url: str, headers: Mapping[str, str] | None, form: Mapping[str, str] | None, scopes: Scopes
    ) -> dict[str, object]:
        method = "GET" if form is None else "POST"
        with self._http.open(url, headers=headers, method=method, form=form) as response:
            if response.status != 200:
                fault = refusal(self._http, response, writing=_writes(scopes))
                raise _not_allowed(str(fault), scopes) if fault.status in {400, 401, 403} else fault
            data = response.read(1 << 20)
        try:
            value = read_json(data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise _not_allowed("gave a token that is not JSON", scopes)
        return value


def _not_allowed(reason: str, scopes: Scopes) -> Refusal:
    hint = LOGIN_WRITE if _writes(scopes) else LOGIN
    return Refusal(reason, id="not-allowed", status=401, hint=hint)


def _writes(scopes: Scopes) -> bool:
    return any(scope.endswith("push") for scope in scopes)


def _union(scopes: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The scopes that are needed, and those that the registry asks for; actions of one repository joined."""
    actions: dict[str, list[str]] = {}
    for scope in (*scopes, *asked):
        name, _, verbs = scope.rpartition(":")
        known = actions.setdefault(name, [])
        known.extend(verb for verb in verbs.split(",") if verb not in known)
    return [f"{name}:{','.join(verbs)}" for name, verbs in actions.items()]


def _parse(header: str) -> tuple[str, dict[str, str]]:
    scheme, _, rest = header.strip().partition(" ")
    parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
    return scheme.lower(), parameters
