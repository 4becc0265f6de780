"""Python's simple repository API (PEP 503 HTML, PEP 691 JSON, PEP 700 sizes and times, PEP 714 metadata)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote, urldefrag, urljoin, urlsplit

import msgspec
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.wayout import with_way_out
from envbuild.oci.digest import is_sha256
from envbuild.store import Http

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_LIMIT = 128 << 20
_PLAIN = re.compile(r"[A-Za-z0-9._+~!%-]+")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}", re.ASCII)


class _File(msgspec.Struct, frozen=True, rename="kebab"):
    """An entry of ``files`` (PEP 691), as far as it is read. ``yanked`` may also be the reason, in words."""

    filename: str
    url: str
    hashes: dict[str, str] | None = None
    size: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] | None = None
    upload_time: str | None = None
    yanked: Any = False
    core_metadata: dict[str, str] | bool | None = None
    data_dist_info_metadata: dict[str, str] | bool | None = None


class _Page(msgspec.Struct, frozen=True):
    files: tuple[_File, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectFile:
    """One file of a project. ``metadata`` is the hash of the METADATA beside it (PEP 658), ``""`` if unknown."""

    name: str
    url: str = field(repr=False)
    version: str
    sha256: str | None
    size: int | None
    uploaded: str | None
    yanked: bool
    metadata: str | None

    @property
    def is_wheel(self) -> bool:
        """Whether it is a wheel."""
        return self.name.endswith(".whl")


def project(name: str, indexes: Sequence[str], http: Http) -> list[ProjectFile]:
    """The files of a project on the first index that has it, as uv looks; empty where none has it.

    Raises:
        EnvbuildError: exit 4, an index cannot be read, or serves what is no page of a project.
    """
    for index in indexes:
        url = f"{index.rstrip('/')}/{canonicalize_name(name)}/"
        try:
            data = http.get(url, headers={"Accept": _ACCEPT}, label="Python's index", limit=_LIMIT)
        except EnvbuildError as error:
            if error.id == "not-found":
                continue
            raise with_way_out(error, "ENVBUILD_PYTHON_INDEX") from error
        try:
            files = _json(url, data) if data.lstrip()[:1] in (b"{", b"[") else _html(url, data)
        except (ValueError, RecursionError, AssertionError) as error:  # msgspec's, urljoin's and HTMLParser's
            raise _malformed(name, str(error)) from None
        return [item for item in files if item is not None]
    return []


def versions(files: Sequence[ProjectFile], *, before: str | None) -> list[str]:
    """The versions with a file that is not yanked and not newer than ``before`` (RFC 3339)."""
    found: dict[str, None] = {}
    for item in files:
        if not item.yanked and (before is None or item.uploaded is None or item.uploaded[:19] <= before[:19]):
            found[item.version] = None
    return list(found)


def _malformed(name: str, reason: str) -> EnvbuildError:
    return EnvbuildError(
        "index-malformed", f"Python's index has a page for {name} that cannot be read: {reason[:200]}",
        hint="Ask the index's keeper, or use another (ENVBUILD_PYTHON_INDEX).", exit=Exit.NETWORK, where=name,
    )  # fmt: skip


def _json(url: str, data: bytes) -> list[ProjectFile | None]:
    return [_entry(url, item) for item in msgspec.json.decode(data, type=_Page).files]


def _entry(base: str, item: _File) -> ProjectFile | None:
    told = item.data_dist_info_metadata if item.core_metadata is None else item.core_metadata
    metadata = told.get("sha256", "") if isinstance(told, dict) else told
    return _made(
        name=item.filename, url=urljoin(base, item.url), sha256=(item.hashes or {}).get("sha256"), size=item.size,
        uploaded=item.upload_time, yanked=bool(item.yanked),
        metadata=metadata if isinstance(metadata, str) else "" if metadata else None,
    )  # fmt: skip


def _html(base: str, data: bytes) -> list[ProjectFile | None]:
    if b"<" not in data:
        raise ValueError("it is neither HTML nor JSON")
    if b"\0" in data or data.startswith(b"\x1f\x8b"):
        raise ValueError("it is neither JSON nor HTML (compressed, although it was not asked for so)")
    parser = _Links()
    parser.feed(data.decode("utf-8", "replace"))
    files = []
    for attributes in parser.links:
        url, fragment = urldefrag(urljoin(parser.base or base, attributes.get("href") or ""))
        metadata = attributes.get("data-core-metadata", attributes.get("data-dist-info-metadata"))
        if metadata is not None:
            metadata = metadata.removeprefix("sha256=") if metadata.startswith("sha256=") else ""
        files.append(
            _made(
                name=unquote(urlsplit(url).path.rsplit("/", 1)[-1]), url=url,
                sha256=next(iter(parse_qs(fragment).get("sha256", [])), None),
                size=None, uploaded=None, yanked="data-yanked" in attributes, metadata=metadata,
            )
        )  # fmt: skip
    return files


def _made(
    *,
    name: str,
    url: str,
    sha256: str | None,
    size: int | None,
    uploaded: str | None,
    yanked: bool,
    metadata: str | None,
) -> ProjectFile | None:
    """A file whose name says its version, or ``None`` for what is neither a wheel nor an sdist.

    Raises:
        ValueError: its address, hash or time cannot be one.
    """
    if not _PLAIN.fullmatch(name):
        return None
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise ValueError(f"the address of {name} is not http, https or file")
    if sha256 is not None and not is_sha256(sha256):
        raise ValueError(f"the sha256 of {name} is {sha256[:80]!r}")
    if uploaded and not _TIME.match(uploaded):
        raise ValueError(f"the upload time of {name} is {uploaded[:80]!r}")
    try:
        version = str(
            parse_wheel_filename(name)[1] if name.endswith(".whl") else parse_sdist_filename(name)[1]
        )
    except ValueError:  # InvalidWheelFilename and its like are some; a version of 5,000 digits is another
        return None
    return ProjectFile(
        name=name, url=url, version=version, sha256=sha256,
        size=size if type(size) is int and size > 0 else None,
        uploaded=uploaded[:19] + "Z" if uploaded else None, yanked=yanked, metadata=metadata,
    )  # fmt: skip


class _Links(HTMLParser):
    """Anchors and the base address of a PEP 503 page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[dict[str, str | None]] = []
        self.base: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect ``<a>`` and ``<base>``."""
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            self.links.append(values)
        elif tag == "base" and values.get("href"):
            self.base = values["href"]
