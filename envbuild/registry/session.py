"""One repository of one registry: requests with the authorization that it asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from envbuild.oci.digest import Digest
from envbuild.registry.authorization import Authorization
from envbuild.registry.reference import Repository, base_address
from envbuild.registry.refusals import Refusal, refusal, told
from envbuild.store.download import Source
from envbuild.store.faults import Fault
from envbuild.store.http import Http, Response, Streamed, joined

Stop = Callable[[], bool]
_NEXT = re.compile(r'<([^<>]*)>[^,<]*;\s*rel="?next\b')
_PAGES = 1000
_PAGE = 16 << 20
_ALL_PAGES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer with its body. Header names are case-insensitive; ``url`` is where it came from."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    url: str

    @property
    def media_type(self) -> str:
        """The body's media type, without parameters."""
        return self.headers.get("Content-Type", "").split(";")[0].strip()


class Session:
    """Requests to one repository. Threads may share it; a token is fetched once, and again when it ends.

    Args:
        repository: which.
        http: the connections.
        environ: where credentials are found, and with whom plain HTTP may be spoken.
    """

    def __init__(self, repository: Repository, http: Http, environ: Mapping[str, str]) -> None:
        self.name = repository
        self.label = f"registry {repository.registry}"
        self.address = base_address(repository, environ)
        self.patience = http.patience
        self._http = http
        self._asked = False
        self._authorization = Authorization(repository, http, environ)
        self._read = (f"repository:{repository.repository}:pull",)
        self._write = (f"repository:{repository.repository}:pull,push",)

    def source(self, digest: str) -> Source:
        """Where :func:`envbuild.store.fetch.fetch` gets a blob; its requests are authorized as the registry asks."""

        def authorize() -> dict[str, str]:
            if not self._asked:
                self.ask("HEAD", f"blobs/{digest}", expect={200, 404})
            return self._authorization.headers(self._read)

        return Source(url=f"{self.address}/blobs/{Digest(digest)}", label=self.label, authorize=authorize)

    @contextmanager
    def open(
        self,
        method: str,
        address: str,
        *,
        writing: bool = False,
        also: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | Streamed | None = None,
    ) -> Iterator[Response]:
        """One request, authorized where asked; the answer whatever else its status.

        Args:
            method: the verb.
            address: absolute, or below the repository. The registry's authorization goes to the registry only.
            writing: ask for the right to write.
            also: other repositories of the registry that are read from.
            headers: sent as well.
            body: sent as the body. A streamed one is not sent twice: where the authorization has ended, the fault
                may be tried again.

        Raises:
            Fault: no answer, or not authorized.
        """
        url = joined(f"{self.address}/", address)
        scopes = (self._write if writing else self._read) + tuple(f"repository:{name}:pull" for name in also)
        own = _origin(url) == _origin(self.address)
        for last in (False, True):
            sent = self._authorization.headers(scopes) if own else {}
            with self._http.open(
                url, method=method, headers={**(headers or {}), **sent}, body=body
            ) as response:
                if response.status != 401 or not own:
                    self._asked = True
                    yield response
                    return
                if last:
                    raise self._authorization.refused(self.refusal(response, writing=writing), scopes)
                challenge = response.headers.get("WWW-Authenticate", "")
            self._authorization.meet(challenge, scopes, refused=sent.get("Authorization"))
            if isinstance(body, Streamed):
                raise Refusal("ended the authorization", id="not-allowed", retry=True, status=401)

    def refusal(self, response: Response, *, writing: bool = False) -> Refusal:
        """The fault that an answer other than the wanted one is; reads its body."""
        return refusal(self._http, response, writing=writing)

    def ask(
        self,
        method: str,
        address: str,
        *,
        expect: Collection[int],
        writing: bool = False,
        also: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit: int = 1 << 20,
        stop: Stop | None = None,
    ) -> Answer:
        """A request and its answer, tried again while that may help.

        Args:
            method: the verb.
            address: absolute, or below the repository.
            expect: the statuses that are answers.
            writing: ask for the right to write.
            also: other repositories of the registry that are read from.
            headers: sent as well.
            body: sent as the body.
            limit: most bytes of the answer.
            stop: ends a wait early.

        Raises:
            EnvbuildError: what :mod:`envbuild.registry.refusals` names.
        """
        effort = self.patience.start(stop=stop)
        while True:
            try:
                with self.open(
                    method, address, writing=writing, also=also, headers=headers, body=body
                ) as response:
                    if response.status not in expect:
                        raise self._in_words(method, address, self.refusal(response, writing=writing))
                    return Answer(
                        status=response.status,
                        headers=response.headers,
                        data=response.read(limit),
                        url=response.url,
                    )
            except Fault as fault:
                if not effort.again(fault):
                    raise told(fault, self.label) from fault

    def _in_words(self, method: str, address: str, fault: Refusal) -> Refusal:
        """An answer to HEAD has no body that says why: ask with GET, where the registry knows the reason."""
        if method == "HEAD" and fault.status == 400:
            with self.open("GET", address) as response:
                if response.status == 400:
                    return self.refusal(response)
        return fault

    def pages(
        self, address: str, *, expect: Collection[int], headers: Mapping[str, str] | None = None
    ) -> Iterator[Answer]:
        """An answer in pages, which ``Link`` headers chain (RFC 8288; distribution spec, "Listing Tags").

        Raises:
            EnvbuildError: a page cannot be had, or there is no end of them (exit 4).
        """
        following, total = address, 0
        for _ in range(_PAGES):
            answer = self.ask("GET", following, expect=expect, headers=headers, limit=_PAGE)
            total += len(answer.data)
            if total > _ALL_PAGES:
                raise told(Fault(f"answered more than {_ALL_PAGES} bytes of pages", retry=False), self.label)
            yield answer
            links = _NEXT.findall(answer.headers.get("Link", ""))
            if not links:
                return
            try:
                following = joined(answer.url, links[0])
            except Fault as fault:
                raise told(fault, self.label) from fault
        raise told(Fault(f"answered in more than {_PAGES} pages", retry=False), self.label)

    def location(self, answer: Answer | Response) -> str:
        """Where the answer says to go on: absolute or relative (RFC 9110, section 10.2.2).

        Raises:
            Fault: nowhere, or from TLS to plain HTTP.
        """
        value = answer.headers.get("Location")
        if not value:
            raise Fault("does not say where to go on (no Location)", retry=False)
        url = joined(answer.url, value)
        if urlsplit(url).scheme != "https" and urlsplit(self.address).scheme == "https":
            raise Fault(
                "goes on without TLS",
                retry=False,
                hint="the registry does not know that a proxy speaks TLS for it: let the proxy send "
                "X-Forwarded-Proto, or set relativeurls in the registry",
            )
        return url


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
