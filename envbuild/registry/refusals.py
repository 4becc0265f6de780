"""What a registry refuses, in plain words (distribution spec, "Error Codes")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.document import read_json
from envbuild.store.faults import NO_TLS, Fault
from envbuild.store.http import Http, Response

_VARIABLES = (
    "or set ENVBUILD_REGISTRY=REGISTRY/REPOSITORY, ENVBUILD_REGISTRY_USER and ENVBUILD_REGISTRY_PASSWORD"
)
LOGIN = f"run `docker login` with an account that may read the repository, {_VARIABLES}"
LOGIN_WRITE = f"run `docker login` with an account that may push to the repository, {_VARIABLES}"
CHANGED = "something between this machine and the registry changes what it sends: check the proxy"
_PLAIN = "a registry that speaks plain HTTP is named with --plain-http or in ENVBUILD_PLAIN_HTTP"
_TLS = (
    "leave out --plain-http and take the registry out of ENVBUILD_PLAIN_HTTP; one on this machine is spoken to with "
    "TLS where it is named by its host name, not as localhost or 127.0.0.1"
)
_OPERATOR = "ask who runs the registry: its log says more; check proxies between as well"
_LIMIT = 1 << 16
_SHOWN = 200
_NO_SPACE = re.compile(
    rb'no space left|disk (?:is )?full|insufficient storage|quota|"Err":\s*(?:28|122)\b', re.I
)
"""ENOSPC and EDQUOT, in words and as the numbers that distribution's file system driver gives."""
_WANTS_TLS = re.compile(rb"HTTP request (?:to an HTTPS server|was sent to HTTPS port)", re.I)
"""What Go's server and nginx answer to plain HTTP."""


class Refusal(Fault):
    """An answer other than the wanted one: a fault that knows its error's id and exit code."""

    def __init__(
        self,
        reason: str,
        *,
        id: str,
        exit: Exit = Exit.NETWORK,
        retry: bool = False,
        status: int | None = None,
        pause: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(reason, retry=retry, status=status, pause=pause, hint=hint)
        self.id = id
        self.exit = exit


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    id: str
    words: str
    hint: str | None = None
    exit: Exit = Exit.NETWORK


def refusal(http: Http, response: Response, *, writing: bool) -> Refusal:
    """Name what ``response`` refuses; reads its body."""
    try:
        body = response.read(_LIMIT)
    except Fault:
        body = b""
    codes, told = _errors(body)
    plain = http.refusal(response)
    kind = _kind(response.status, codes, body, writing)
    return Refusal(
        f"answered {response.status}{told}{kind.words}",
        id=kind.id,
        exit=kind.exit,
        retry=plain.retry and kind.id in {"registry-failed", "too-many-requests"},
        status=response.status,
        pause=plain.pause,
        hint=kind.hint,
    )


def told(fault: Fault, label: str) -> EnvbuildError:
    """The error that ends the attempts."""
    id, exit = (fault.id, fault.exit) if isinstance(fault, Refusal) else ("registry-failed", Exit.NETWORK)
    hint = _PLAIN if fault.hint == NO_TLS else fault.hint
    return EnvbuildError(id, f"{label} {fault}", hint=hint, exit=exit)


def lies(label: str, what: str, *, expected: str, seen: str) -> EnvbuildError:
    """The registry says another digest or size than the content has."""
    return EnvbuildError(
        "registry-lies",
        f"{label} {what}\n  expected {expected}\n  seen     {seen}",
        hint="do not use this registry's content before its operator has looked at it; check proxies between as well",
        exit=Exit.VERIFY,
        where=expected,
    )


def _errors(body: bytes) -> tuple[frozenset[str], str]:
    """The codes of an error body, and its codes and messages as a text that follows the status."""
    try:
        value = read_json(body)
    except ValueError:
        return frozenset(), ""
    errors = value.get("errors") if isinstance(value, dict) else None
    entries = [item for item in errors if isinstance(item, dict)] if isinstance(errors, list) else []
    codes = frozenset(str(item["code"]) for item in entries if "code" in item)
    texts = [f"{item.get('code', '')} {item.get('message', '')}".strip() for item in entries]
    shown = "".join(char if char.isprintable() else " " for char in ", ".join(texts))[:_SHOWN]
    return codes, f" ({shown})" if shown else ""


def _kind(status: int, codes: frozenset[str], body: bytes, writing: bool) -> _Kind:
    if writing and (status == 507 or _NO_SPACE.search(body)):
        return _Kind(
            id="registry-full",
            words=": it has no room left",
            hint="free space in the registry (delete tags, then collect garbage) or raise the quota, "
            "then run the same command again",
        )
    if writing and (status == 405 or "UNSUPPORTED" in codes):
        return _Kind(
            id="registry-read-only",
            words=": it takes no content",
            hint="the registry is read-only, a pull-through cache or under maintenance: name another, or wait",
        )
    if status in {401, 403}:
        verb, hint = ("write", LOGIN_WRITE) if writing else ("read", LOGIN)
        return _Kind(id="not-allowed", words=f": not allowed to {verb}", hint=hint)
    if status == 400 and _WANTS_TLS.search(body):
        return _Kind(id="registry-failed", words=": it speaks TLS, and was asked without", hint=_TLS)
    return _by_code(codes, writing) or _by_status(status)


def _by_code(codes: frozenset[str], writing: bool) -> _Kind | None:
    if codes & {"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"} and writing:
        return _Kind(
            id="blob-unknown",
            words=": it has not all that the manifest names",
            hint="run the same command again: it sends what is missing; the registry may have collected garbage",
        )
    if "NAME_INVALID" in codes:
        return _Kind(
            id="bad-repository",
            words=": it does not take this repository's name",
            hint="name another repository; many registries want a project or an owner in front: REGISTRY/OWNER/NAME",
            exit=Exit.USAGE,
        )
    if "DIGEST_INVALID" in codes:
        return _Kind(
            id="wrong-hash",
            words=": it got other bytes than were sent",
            hint="something between this machine and the registry changes what is sent: check the proxy",
            exit=Exit.VERIFY,
        )
    return None


def _by_status(status: int) -> _Kind:
    if status in {404, 410}:
        return _Kind(id="not-found", words="", hint="check the repository's name, the tag and the digest")
    if status == 413:
        return _Kind(
            id="too-large",
            words=": it takes no content of this size",
            hint="raise the limit of the proxy before the registry (client_max_body_size, for one)",
        )
    if status == 429:
        return _Kind(
            id="too-many-requests", words=": too many requests", hint="wait some minutes, then run it again"
        )
    return _Kind(id="registry-failed", words="", hint=_OPERATOR if 400 <= status < 500 else None)
