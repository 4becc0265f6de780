"""Answers of servers, byte by byte as they come over a connection: status lines, headers, bodies.

Each connection is one end of a socket pair whose other end holds the whole answer already, so urllib3 and the standard
library read what a server would have sent, and no thread and no port takes part.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import urllib3
import urllib3.connection
from fuzz_engine import Reader
from fuzz_mutation import TEXTS, Make, bytes_changed, json_of

from envbuild.lock.python.files import length_of, wheel_metadata
from envbuild.registry.manifests import head_manifest, list_tags, put_manifest, read_manifest
from envbuild.registry.reference import parse_repository
from envbuild.registry.referrers import list_referrers
from envbuild.registry.session import Session
from envbuild.registry.upload import has_blob
from envbuild.store.download import Download, Source, Wanted
from envbuild.store.http import Http
from envbuild.store.part import Part
from envbuild.store.retry import Patience

_MOST = 150_000
"""Bytes that a socket pair takes without a reader."""


class _Connection(urllib3.connection.HTTPConnection):
    """One whose server has answered before it was asked."""

    answers: Sequence[bytes] = ()
    made = 0

    def _new_conn(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        answers = _Connection.answers
        data = answers[min(_Connection.made, len(answers) - 1)][:_MOST]
        _Connection.made += 1
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        self._theirs = theirs
        return ours

    def close(self) -> None:
        """Both ends."""
        super().close()
        theirs = getattr(self, "_theirs", None)
        if theirs is not None:
            theirs.close()


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


def _http(*answers: bytes) -> Http:
    """An ``Http`` whose connections give these answers, one after the other, the last one ever again."""
    _Connection.answers, _Connection.made = answers, 0
    _HTTP._direct.clear()
    return _HTTP


_HTTP = Http(environ={}, patience=Patience(tries=2, first=0.0, longest=0.0, longest_asked=0.0))
_HTTP._direct.pool_classes_by_scheme = {"http": _Pool, "https": _Pool}

NAMES = (
    *(
        "Content-Length",
        "Content-Range",
        "Retry-After",
        "Date",
        "Last-Modified",
        "Location",
        "ETag",
        "Content-Encoding",
    ),
    *(
        "Transfer-Encoding",
        "WWW-Authenticate",
        "Docker-Content-Digest",
        "Content-Type",
        "Link",
        "Range",
        "OCI-Subject",
    ),
    *("Connection", "Set-Cookie", "Accept-Ranges", "X", ""),
)
PARTS = (
    *(
        "0",
        "5",
        "-5",
        "+5",
        "5, 5",
        "5, 6",
        "9" * 30,
        "9" * 5_000,
        "²",
        "0x5",
        "5.5",
        "1e3",
        "NaN",
        "inf",
        "-inf",
        "1e999",
    ),
    *(
        "bytes 0-4/5",
        "bytes 0-4/*",
        "bytes 3-/5",
        "bytes */5",
        "bytes 9-4/5",
        "bytes ²-4/5",
        "bytes 0-" + "9" * 5_000,
    ),
    *(
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "Thu, 01 Jan 99999 00:00:00 GMT",
        "Wed, 99 Foo 2015 99:99:99 GMT",
        "0 0 0 0 0 0",
    ),
    *("Wed, 21 Oct 2015 07:28:00 +9999", "Mon, 01 Jan 0000 00:00:00 -0000", "31 Dec 9999 23:59:59 -2359"),
    *(
        "http://h.invalid:99999/x",
        "http://h.invalid:0/",
        "http://[::1",
        "//",
        "https://",
        "file:///etc/passwd",
        "ftp://h/",
        "http://a b/",
    ),
    *(
        "/x",
        "?",
        "http://h.invalid/\xff",
        "http://user:pw@h2.invalid/",
        "http://h.invalid:²/",
        "http://%zz/",
        "http://h\u2100.invalid/",
    ),
    *("gzip", "br", "chunked", "chunked, chunked", "identity", "close", "keep-alive", 'W/"x"', '"x"', '"'),
    *(
        'Bearer realm="http://127.0.0.1/token",service="s",scope="repository:a:pull"',
        "Basic realm=x",
        "Bearer",
        'Bearer realm="http://[::1"',
    ),
    *(
        'Bearer realm="https://h:99999/"',
        "Digest x",
        'Bearer realm="http://127.0.0.1:x/"',
        "sha256:" + "ab" * 32,
        "sha256:",
        "md5:x",
    ),
    *(
        '</v2/x?n=1>; rel="next"',
        '<http://h:99999/>; rel="next"',
        "<>; rel=next",
        '<http://[>; rel="next"',
        "text/html",
        "application/json; x",
    ),
)
STATUS = (
    200,
    200,
    200,
    206,
    206,
    401,
    401,
    302,
    307,
    404,
    416,
    429,
    503,
    100,
    101,
    204,
    304,
    201,
    202,
    999,
    0,
)
TOKEN = b'HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n{"token": "abc", "expires_in": 1e309}'


def answers_of(body: Make) -> Make:
    """Answers with odd statuses and headers around what ``body`` makes."""

    def make(rng: Random) -> bytes:
        content = body(rng)[: _MOST // 2]
        status = rng.choice(STATUS)
        lines = [f"HTTP/1.1 {status} Reason".encode()]
        if rng.random() < 0.7:
            lines.append(
                b"Content-Length: %d"
                % (len(content) + (rng.choice((-1, 1, 1000)) if rng.random() < 0.1 else 0))
            )
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            value = rng.choice(PARTS if rng.random() < 0.8 else TEXTS)
            lines.append(
                rng.choice(NAMES).encode()
                + b": "
                + value.encode("utf-8", "surrogatepass").replace(b"\n", b"\n ")
            )
        if rng.random() < 0.05:
            lines[0] = rng.choice(
                (
                    b"HTTP/1.1",
                    b"HTTP/9.9 200 x",
                    b"HTTP/1.1 abc",
                    b"",
                    b"ICY 200",
                    b"HTTP/1.1 " + b"9" * 5_000,
                    b"X" * 70_000,
                )
            )
        if rng.random() < 0.03:
            lines += [b"H%d: x" % number for number in range(rng.choice((99, 150)))]
        data = b"\r\n".join(lines) + b"\r\n\r\n" + content
        return bytes_changed(rng, data) if rng.random() < 0.15 else data

    return Make(make, *(_sound(seed) for seed in body.seeds))


def _sound(content: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: %d\r\n\r\n"
    return head % len(content) + content


def _drawn(rng: Random) -> bytes:
    return rng.choice(
        (
            b"",
            b"hello",
            b"5\r\nhello\r\n0\r\n\r\n",
            b"zz\r\nhello",
            b"ffffffffffffffffff\r\nx",
            b"{}",
            b"[" * 3_000,
            b"\x1f\x8b",
        )
    )


_small = Make(_drawn, b"hello")


def _get(data: bytes) -> None:
    _http(data, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").get("http://h.invalid/x", limit=1 << 16)


class _Counting:
    def came(self, wanted: Wanted, offset: int, amount: int) -> None: ...

    def announced(self, wanted: Wanted, size: int) -> None:
        assert size >= 0


def _download(data: bytes) -> None:
    """A download that goes on where an earlier one stopped, so that ranges count too."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="fuzz-"))
    try:
        sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        (folder / f"{sha256}.part").write_bytes(b"he")
        source = Source(url="http://h.invalid/x", label="the source")
        wanted = Wanted(
            name="x", file="x", sha256=sha256, size=5 if len(data) % 2 else None, sources=(source,)
        )
        part = Part(folder, sha256, wanted.size, work=folder)
        try:
            again = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-4/5\r\nContent-Length: 5\r\n\r\nhello"
            Download(wanted, part, http=_http(data, again), tally=_Counting(), stop=threading.Event()).run(
                folder / "x"
            )
        finally:
            part.close()
    finally:
        shutil.rmtree(folder)


def _length(data: bytes) -> None:
    length_of("http://h.invalid/x.whl", "x.whl", [], _http(data))
    wheel_metadata("http://h.invalid/x.whl", "x.whl", sha256=None, beside=True, indexes=[], http=_http(data))


def _session(data: bytes) -> Session:
    """A registry that answers so, and whose tokens are sound."""
    return Session(parse_repository("127.0.0.1:5000/team/app"), _http(data, TOKEN, data), {})


def _manifests(data: bytes) -> None:
    """One of the requests, by the answer's length."""
    digest = "sha256:" + "ab" * 32
    session = _session(data)
    asked: tuple[Callable[[], object], ...] = (
        lambda: read_manifest(session, "v1"),
        lambda: head_manifest(session, "v1"),
        lambda: list_tags(session),
        lambda: list_referrers(session, digest, "x/y"),
        lambda: has_blob(session, digest, 5),
        lambda: put_manifest(session, b"{}", "x/y", "v1"),
    )
    asked[len(data) % len(asked)]()


def _token(data: bytes) -> None:
    challenge = b'HTTP/1.1 401 No\r\nContent-Length: 0\r\nWWW-Authenticate: Bearer realm="http://127.0.0.1/token",service="s"\r\n\r\n'
    session = Session(parse_repository("127.0.0.1:5000/team/app"), _http(challenge, data, TOKEN), {})
    head_manifest(session, "v1")


MANIFEST = {
    "schemaVersion": 2,
    "tags": ["a", 1],
    "manifests": [{"mediaType": "x", "digest": "sha256:" + "ab" * 32, "size": 1}],
}
ERRORS = {
    "errors": [{"code": "UNAUTHORIZED", "message": "no", "detail": None}],
    "token": "abc",
    "expires_in": 60,
}

READERS = [
    Reader(name="http-answer", make=answers_of(_small), read=_get),
    Reader(name="http-download", make=answers_of(_small), read=_download),
    Reader(name="http-length", make=answers_of(_small), read=_length),
    Reader(name="registry-answer", make=answers_of(json_of(MANIFEST, ERRORS)), read=_manifests),
    Reader(name="registry-token", make=answers_of(json_of(ERRORS)), read=_token),
]
