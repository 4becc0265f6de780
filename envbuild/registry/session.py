"""One repository of one registry: requests with the authorization that it asks for."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from envbuild.registry.credentials import find_credentials
from envbuild.registry.reference import Reference
from envbuild.store.faults import Fault
from envbuild.store.http import Http, failed
from envbuild.store.network import is_loopback

_PARAMETER = re.compile(r'([A-Za-z]+)=(?:"([^"]*)"|([^\s,]+))')
_LOGIN = "run `docker login` for the registry, and check that the account may read the repository"
_EARLY = 10.0
"""Seconds before its end that a token counts as over."""
_SHORTEST = 60.0
"""A token's life in seconds where the answer names none (distribution spec, "Token Response Fields")."""


class Session:
    """Reads from one repository. Threads may share it; a token is fetched once and again when it ends.

    Args:
        reference: registry and repository.
        http: the connections.
        environ: where Docker's configuration and credential helpers are found.
    """

    def __init__(self, reference: Reference, http: Http, environ: Mapping[str, str]) -> None:
        self.label = f"registry {reference.registry}"
        self._reference = reference
        self._http = http
        self._environ = environ
        self._asked = False
        self._guard = threading.Lock()
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._header: str | None = None
        self._ends = float("inf")

    def headers(self) -> dict[str, str]:
        """The ``Authorization`` header for the next request; none until the registry has asked for it.

        Raises:
            Fault: no token is to be had.
        """
        with self._guard:
            if self._challenge is not None and time.monotonic() > self._ends - _EARLY:
                self._authorize(self._challenge)
            return {"Authorization": self._header} if self._header else {}

    def read(self, path: str, *, accept: str, limit: int) -> tuple[bytes, str]:
        """The body at ``path`` below the repository, and its media type; retried, authorized where asked.

        Raises:
            EnvbuildError: it cannot be read (exit 4).
        """
        effort = self._http.patience.start()
        while True:
            try:
                return self._read(path, accept, limit)
            except Fault as fault:
                if not effort.again(fault):
                    raise failed(fault, self.label) from fault

    def prepare(self, path: str, *, accept: str, limit: int) -> None:
        """Meet the registry's challenge, if no request has done so yet, so that :meth:`headers` has the answer."""
        if not self._asked:
            self.read(path, accept=accept, limit=limit)

    def _read(self, path: str, accept: str, limit: int) -> tuple[bytes, str]:
        address = f"{self._reference.address}/{path}"
        for last in (False, True):
            with self._http.open(address, headers={"Accept": accept, **self.headers()}) as response:
                if response.status == 200:
                    self._asked = True
                    media_type = response.headers.get("Content-Type", "").split(";")[0].strip()
                    return response.read(limit), media_type
                if response.status != 401 or last:
                    fault = self._http.refusal(response)
                    raise _with_login(fault) if response.status in {401, 403} else fault
                challenge = _challenge(response.headers.get("WWW-Authenticate", ""))
            with self._guard:
                self._authorize(challenge)
        raise AssertionError("unreachable")

    def _authorize(self, challenge: tuple[str, dict[str, str]]) -> None:
        """Answer a challenge (RFC 9110, section 11; distribution's token authentication)."""
        self._challenge = challenge
        scheme, parameters = challenge
        credentials = find_credentials(self._reference.accounts, self._environ)
        if scheme == "basic":
            if credentials is None or not credentials.user:
                raise Fault("asks for a password", retry=False, status=401, hint=_LOGIN)
            self._header, self._ends = credentials.basic, float("inf")
            return
        realm = parameters.get("realm", "")
        parts = urlsplit(realm)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        if scheme != "bearer" or not safe:
            raise Fault("asks for a way to log in that is not known or not safe", retry=False, status=401)
        query = {"scope": parameters.get("scope", f"repository:{self._reference.repository}:pull")}
        if "service" in parameters:
            query["service"] = parameters["service"]
        if credentials is not None and credentials.identity_token is not None:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": "envbuild",
                **query,
            }
            answer = self._token(realm, None, form)
        else:
            headers = {"Authorization": credentials.basic} if credentials is not None else None
            answer = self._token(f"{realm}{'&' if parts.query else '?'}{urlencode(query)}", headers, None)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str):
            raise Fault("gave no token", retry=False, status=401, hint=_LOGIN)
        life = answer.get("expires_in")
        self._header = f"Bearer {token}"
        self._ends = time.monotonic() + (float(life) if isinstance(life, int | float) else _SHORTEST)

    def _token(
        self, url: str, headers: Mapping[str, str] | None, form: Mapping[str, str] | None
    ) -> dict[str, object]:
        method = "GET" if form is None else "POST"
        with self._http.open(url, headers=headers, method=method, form=form) as response:
            if response.status != 200:
                fault = self._http.refusal(response)
                raise _with_login(fault) if response.status in {400, 401, 403} else fault
            data = response.read(1 << 20)
        try:
            value = json.loads(data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Fault("gave a token that is not JSON", retry=False)
        return value


def _with_login(fault: Fault) -> Fault:
    return Fault(f"{fault}: not allowed to read", retry=False, status=fault.status, hint=_LOGIN)


def _challenge(header: str) -> tuple[str, dict[str, str]]:
    scheme, _, rest = header.strip().partition(" ")
    parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
    return scheme.lower(), parameters
