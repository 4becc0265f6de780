"""Python's simple repository API (PEP 503 HTML, PEP 691 JSON, PEP 700 sizes and times, PEP 714 metadata)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, unquote, urldefrag, urljoin, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.wayout import with_way_out
from envbuild.oci.digest import is_sha256
from envbuild.oci.document import read_object
from envbuild.store import Http

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_LIMIT = 128 << 20


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
        EnvbuildError: exit 4, an index cannot be read.
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
            files = _json(url, data) if data.lstrip()[:1] == b"{" else _html(url, data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _malformed(name, f"{type(error).__name__}: {error}") from error
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
        hint="Ask the index's keeper, or use another (ENVBUILD_PYTHON_INDEX).", exit=Exit.NETWORK,
    )  # fmt: skip


def _json(url: str, data: bytes) -> list[ProjectFile | None]:
    document = read_object(data)
    return [_entry(url, item) for item in document.get("files", [])]


def _entry(base: str, item: dict[str, Any]) -> ProjectFile | None:
    metadata = item.get("core-metadata", item.get("data-dist-info-metadata", False))
    if isinstance(metadata, dict):
        metadata = metadata.get("sha256", "")
    return _made(
        name=item["filename"], url=urljoin(base, item["url"]), sha256=item.get("hashes", {}).get("sha256"),
        size=item.get("size"), uploaded=item.get("upload-time"), yanked=bool(item.get("yanked", False)),
        metadata=metadata if isinstance(metadata, str) else "" if metadata else None,
    )  # fmt: skip


def _html(base: str, data: bytes) -> list[ProjectFile | None]:
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
    """A file whose name says its version, or ``None`` for what is neither a wheel nor an sdist."""
    try:
        version = str(
            parse_wheel_filename(name)[1] if name.endswith(".whl") else parse_sdist_filename(name)[1]
        )
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None
    return ProjectFile(
        name=name, url=url, version=version, sha256=sha256 if is_sha256(sha256) else None,
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
