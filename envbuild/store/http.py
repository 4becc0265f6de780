"""HTTP by urllib3: proxies, certificates and credentials as other clients on the machine use them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from urllib.parse import SplitResult, unquote, urlencode, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import open_regular
from envbuild.store.faults import Fault, fault_of
from envbuild.store.network import (
    Proxies,
    basic,
    date_of,
    is_local,
    read_netrc,
    redacted,
    split_credentials,
    tls_context,
)
from envbuild.store.pace import Meter, Pace, Window, paced_pools
from envbuild.store.retry import Patience

_CHUNK = 1 << 18
_SHORT = 1 << 14
_REDIRECTS = {301, 302, 303, 307, 308}
_NUMBER = re.compile(r"[0-9]{1,18}")
AGENT = "envbuild"


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """A body that is sent while it is made, once: ``length`` bytes, which ``pieces`` give."""

    length: int
    pieces: Iterable[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer whose body has not been read. Header names are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    url: str
    _body: urllib3.BaseHTTPResponse = field(repr=False)
    _timeout: float
    _pace: Pace

    @property
    def length(self) -> int | None:
        """The length of the body in bytes, where the server tells it."""
        return number(self.headers.get("Content-Length"))

    def abort(self) -> None:
        """Wake a thread that waits in :meth:`chunks`; it then sees a broken connection."""
        with suppress(OSError, ValueError, RuntimeError):
            if isinstance(self._body, urllib3.HTTPResponse):
                self._body.shutdown()

    def chunks(self) -> Iterator[bytes]:
        """The body as sent (no content decoding), piece by piece.

        Raises:
            Fault: the connection broke, stalled, was slower than the pace or ended early.
        """
        window = Window(self._pace)
        meter = getattr(getattr(self._body, "_original_response", None), "meter", None)
        try:
            while True:
                began = monotonic()
                chunk = self._body.read1(_CHUNK, decode_content=False)
                if not chunk:
                    return
                window.add(len(chunk), monotonic() - began)
                if isinstance(meter, Meter):
                    meter.content()
                yield chunk
        except (HTTPError, OSError) as error:
            raise fault_of(error, self._timeout) from error

    def read(self, limit: int) -> bytes:
        """The whole body, ``limit`` bytes at most.

        Raises:
            Fault: the connection broke, or the body is longer.
        """
        data = bytearray()
        for chunk in self.chunks():
            data += chunk
            if len(data) > limit:
                raise Fault(f"answered more than {limit} bytes", retry=False)
        return bytes(data)


class Http:
    """Connections to servers, kept open and shared by threads.

    Credentials come from a URL (``https://user:password@host/``) or from netrc, are sent only to the host they
    belong to, and never appear in an error.

    Args:
        environ: where proxies (``http_proxy``, ``https_proxy``, ``all_proxy``, ``no_proxy``), certificates
            (``SSL_CERT_FILE``, ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``, ``PIP_CERT``: the first that is set),
            ``NETRC`` and ``HOME`` are read.
        ca_bundle: a PEM file or a folder of hashed certificates; stronger than the environment.
        connect_timeout: seconds to wait for a connection.
        read_timeout: seconds without a byte after which a connection counts as broken.
        pace: what an answer must bring in a window of time; stronger than ``read_timeout`` for what is read.
        patience: how often and how fast to try again.
        connections: connections kept per host.

    Raises:
        EnvbuildError: a certificate bundle or proxy is set that cannot be used (exit 2).
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        ca_bundle: Path | None = None,
        connect_timeout: float = 15.0,
        read_timeout: float = 60.0,
        pace: Pace | None = None,
        patience: Patience | None = None,
        connections: int = 16,
    ) -> None:
        self.patience = patience or Patience()
        self.pace = pace or Pace()
        self._pools = paced_pools(self.pace)
        self._read_timeout = read_timeout
        self._timeout = urllib3.Timeout(connect=connect_timeout, read=read_timeout)
        self._context = tls_context(environ, ca_bundle)
        self._connections = connections
        self._proxies = Proxies.from_environment(environ)
        self._netrc = read_netrc(environ)
        self._direct = urllib3.PoolManager(
            maxsize=connections, ssl_context=self._context, timeout=self._timeout, retries=False
        )
        self._direct.pool_classes_by_scheme = self._pools
        self._by_proxy = {
            proxy: self._proxy_manager(proxy) for proxy in set(self._proxies.by_scheme.values())
        }

    def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        label: str | None = None,
        limit: int = 64 << 20,
    ) -> bytes:
        """The body at ``url`` (http, https or file), tried again while that may help.

        Args:
            url: what to read; credentials in it are sent and not printed.
            headers: sent as well; dropped when a redirect leaves the host.
            label: what an error calls the source; by default the URL without credentials and query.
            limit: most bytes to accept.

        Raises:
            EnvbuildError: ``not-found`` for 404 and 410, ``not-allowed`` for 401 and 403, else
                ``source-failed`` (exit 4).
        """
        name = label or redacted(url)
        if is_local(url):
            return _read_local(url, name, limit)
        effort = self.patience.start()
        while True:
            try:
                with self.open(url, headers=headers) as response:
                    if response.status == 200:
                        return response.read(limit)
                    raise self.refusal(response)
            except Fault as fault:
                if not effort.again(fault):
                    raise failed(fault, name) from fault

    @contextmanager
    def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        form: Mapping[str, str] | None = None,
        body: bytes | Streamed | None = None,
    ) -> Iterator[Response]:
        """One request, redirects followed; the answer whatever its status. No second try.

        Only reading follows redirects: where a body is sent, ``Location`` is the caller's.

        Args:
            url: where to; credentials in it are sent.
            headers: sent as well; dropped when a redirect leaves the host.
            method: the verb.
            form: sent as the body (``application/x-www-form-urlencoded``).
            body: sent as the body; what its pieces raise ends the request and comes out here, but for an
                ``OSError``, which cannot be told from the connection's.

        Raises:
            Fault: no answer.
        """
        if form is not None:
            body = urlencode(form).encode()
            headers = {**(headers or {}), "Content-Type": "application/x-www-form-urlencoded"}
        parts, own = split_credentials(url)
        sent = {"User-Agent": AGENT, "Accept-Encoding": "identity", **own, **(headers or {})}
        extra = dict(headers or {})
        for _ in range(10):
            answer = self._request(method, parts, self._with_netrc(parts, sent), body)
            target = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or target is None or method not in {"GET", "HEAD"}:
                break
            _done_with(answer)
            following, own = split_credentials(joined(urlunsplit(parts), target))
            if _origin(following) != _origin(parts):
                extra = {name: extra[name] for name in extra if name.lower() in _HARMLESS}
            elif "Authorization" in sent and "Authorization" not in own:
                own = {"Authorization": sent["Authorization"]}
            parts = following
            sent = {"User-Agent": AGENT, "Accept-Encoding": "identity", **own, **extra}
        else:
            raise Fault("redirects without end", retry=False)
        try:
            yield Response(
                status=answer.status,
                headers=answer.headers,
                url=urlunsplit(parts),
                _body=answer,
                _timeout=self._read_timeout,
                _pace=self.pace,
            )
        except BaseException:
            answer.close()
            raise
        _done_with(answer)

    def refusal(self, response: Response) -> Fault:
        """The fault that an answer other than the wanted one is."""
        status = response.status
        retry = status in {408, 425, 429} or status >= 500
        return Fault(
            f"answered {status}",
            retry=retry,
            status=status,
            pause=_retry_after(response.headers.get("Retry-After")),
        )

    def _request(
        self, method: str, parts: SplitResult, headers: Mapping[str, str], body: bytes | Streamed | None
    ) -> urllib3.BaseHTTPResponse:
        data: bytes | Iterable[bytes] | None
        if isinstance(body, Streamed):
            data, headers = body.pieces, {**headers, "Content-Length": str(body.length)}
        else:
            data = body
        try:
            return self._manager(parts).request(
                method,
                urlunsplit(parts),
                body=data,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=self._timeout,
            )
        except (HTTPError, OSError, ValueError) as error:
            raise fault_of(error, self._read_timeout) from error

    def _manager(self, parts: SplitResult) -> urllib3.PoolManager:
        proxy = self._proxies.proxy_for(parts.scheme, parts.hostname or "", parts.port)
        return self._direct if proxy is None else self._by_proxy[proxy]

    def _proxy_manager(self, proxy: str) -> urllib3.ProxyManager:
        try:
            parts, own = split_credentials(proxy)
        except Fault as fault:
            raise EnvbuildError(
                "bad-proxy",
                f"the proxy {redacted(proxy)} is not an http or https address",
                hint="set http_proxy and https_proxy to http://HOST:PORT, or unset them",
                exit=Exit.USAGE,
            ) from fault
        headers = {"Proxy-Authorization": own["Authorization"]} if own else None
        manager = urllib3.ProxyManager(
            urlunsplit(parts),
            proxy_headers=headers,
            proxy_ssl_context=self._context,
            maxsize=self._connections,
            ssl_context=self._context,
            timeout=self._timeout,
            retries=False,
        )
        manager.pool_classes_by_scheme = self._pools
        return manager

    def _with_netrc(self, parts: SplitResult, headers: dict[str, str]) -> dict[str, str]:
        if self._netrc is None or any(name.lower() == "authorization" for name in headers):
            return headers
        found = self._netrc.authenticators(parts.hostname or "")
        if found is None:
            return headers
        return {**headers, **basic(found[0], found[2] or "")}


_HARMLESS = {"accept", "range", "if-range", "user-agent", "accept-encoding"}


def _done_with(body: urllib3.BaseHTTPResponse) -> None:
    """Read a short rest, so that the connection can serve the next request; close one with a long rest."""
    if body.length_remaining is not None and body.length_remaining <= _SHORT:
        body.drain_conn()
        body.release_conn()
    else:
        body.close()


def failed(fault: Fault, label: str) -> EnvbuildError:
    """The error for a source that cannot be read."""
    if fault.status in {404, 410}:
        return EnvbuildError(
            "not-found",
            f"{label} {fault}",
            hint="check the address and the version asked for",
            exit=Exit.NETWORK,
        )
    if fault.status in {401, 403}:
        hint = fault.advice or "give credentials in the index's address or in ~/.netrc"
        return EnvbuildError("not-allowed", f"{label} {fault}", hint=hint, exit=Exit.NETWORK)
    return EnvbuildError("source-failed", f"{label} {fault}", hint=fault.hint, exit=Exit.NETWORK)


def joined(base: str, address: str) -> str:
    """An address that an answer names, absolute or relative to ``base``.

    Raises:
        Fault: it is none.
    """
    try:
        url = urljoin(base, address)
        urlsplit(url).port  # noqa: B018 - refuses a port that is none
    except ValueError as error:
        raise Fault("names an address that is not valid", retry=False) from error
    return url


def number(text: str | None) -> int | None:
    """The whole number that a header has; ``None`` where it has none, or one that nothing counts."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _retry_after(value: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    found = date_of(value)
    try:
        return None if found is None else max(0.0, found.timestamp() - time())
    except (ValueError, OverflowError):  # a time without a zone, before the first or after the last year
        return None


def _read_local(url: str, label: str, limit: int) -> bytes:
    path = Path(unquote(urlsplit(url).path))
    try:
        with open_regular(path) as stream:
            data = stream.read(limit + 1)
    except ValueError:
        raise failed(Fault("has an address that is not valid", retry=False), label) from None
    except OSError as error:
        status = 404 if isinstance(error, FileNotFoundError) else None
        raise failed(Fault(f"cannot be read: {error.strerror}", retry=False, status=status), label) from error
    if len(data) > limit:
        raise failed(Fault(f"has more than {limit} bytes", retry=False), label)
    return data
