"""What this machine says about networks: proxies, certificates, passwords; and addresses without secrets."""

from __future__ import annotations

import base64
import ipaddress
import netrc
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from envbuild.errors import EnvbuildError, Exit
from envbuild.store.faults import Fault

_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """``by_scheme`` names the proxy for ``http`` and ``https``; ``exceptions`` are the rules of ``no_proxy``."""

    by_scheme: Mapping[str, str]
    exceptions: tuple[str, ...]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Proxies:
        """Read ``http_proxy``, ``https_proxy``, ``all_proxy``, ``no_proxy``; lower case before upper case."""
        by_scheme: dict[str, str] = {}
        for scheme in ("http", "https"):
            for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
                value = environ.get(name)
                if value:
                    by_scheme[scheme] = value if "://" in value else f"http://{value}"
                    break
        rules = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        exceptions = tuple(rule.strip().lower() for rule in rules.split(",") if rule.strip())
        return cls(by_scheme=by_scheme, exceptions=exceptions)

    def proxy_for(self, scheme: str, host: str, port: int | None) -> str | None:
        """The proxy to ask for ``host``, or ``None``. This machine is never asked through one."""
        host = host.lower()
        if is_loopback(host) or any(_matches(rule, host, port) for rule in self.exceptions):
            return None
        return self.by_scheme.get(scheme)


def _matches(rule: str, host: str, port: int | None) -> bool:
    """A rule of ``no_proxy``: ``*``, a name, a parent domain, ``host:port``, an address, a network."""
    name, _, number = rule.partition(":") if rule.count(":") == 1 else (rule, "", "")
    if number and number != str(port):
        return False
    bare = name.removeprefix("*").lstrip(".").strip("[]")
    if rule == "*" or host == bare or (bare and host.endswith("." + bare)):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(bare, strict=False)
    except ValueError:
        return False


def tls_context(environ: Mapping[str, str], explicit: Path | None) -> ssl.SSLContext:
    """Certificates from one place: the explicit bundle, the first variable that is set, or the system's."""
    setting, bundle = "the certificate bundle", explicit
    for name in _BUNDLES:
        if bundle is None and environ.get(name):
            setting, bundle = name, Path(environ[name])
    if bundle is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if bundle.is_dir():
            context.load_verify_locations(capath=bundle)
        else:
            context.load_verify_locations(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise EnvbuildError(
            "bad-ca-bundle",
            f"{setting} names {bundle}, which cannot be read as certificates: {error.strerror or error}",
            hint=f"point {setting} to a PEM file, such as /etc/ssl/certs/ca-certificates.crt, or unset it",
            exit=Exit.USAGE,
            where=str(bundle),
        ) from error
    return context


def read_netrc(environ: Mapping[str, str]) -> netrc.netrc | None:
    """The user's netrc; one that is missing or malformed gives no credentials, as with other clients."""
    name = environ.get("NETRC")
    path = Path(name) if name else Path(environ.get("HOME", "/nonexistent")) / ".netrc"
    try:
        return netrc.netrc(str(path))
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return None


def split_credentials(url: str) -> tuple[SplitResult, dict[str, str]]:
    """An http address without user and fragment, and the header that the user and password become."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise Fault("has an address that is not valid", retry=False, hint="correct the address")
    if "@" not in parts.netloc:
        return parts._replace(fragment=""), {}
    bare = parts._replace(netloc=parts.netloc.rsplit("@", 1)[1], fragment="")
    return bare, basic(unquote(parts.username or ""), unquote(parts.password or ""))


def basic(user: str, password: str) -> dict[str, str]:
    """The ``Authorization`` header of RFC 7617."""
    token = base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()
    return {"Authorization": f"Basic {token}"}


def date_of(text: str) -> datetime | None:
    """A header's date (RFC 5322); ``None`` where it is none."""
    try:
        return parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None


def redacted(url: str) -> str:
    """``url`` without credentials, query and fragment: what may be printed."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is not valid"
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def is_local(url: str) -> bool:
    """Whether ``url`` names a file of this machine."""
    return url[:5].lower() == "file:"


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address) means this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
