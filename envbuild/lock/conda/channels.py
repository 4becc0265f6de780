"""Where this machine finds conda channels: a mirror, a folder, or the channel itself. Never in a lock."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.conda.condarc import Condarc, read_condarc
from envbuild.lock.conda.model import CondaLock, CondaPackage

if TYPE_CHECKING:
    from rattler import Client

VARIABLE = "ENVBUILD_CONDA_CHANNELS"
SUBDIRS: tuple[Literal["linux-64"], Literal["noarch"]] = ("linux-64", "noarch")
"""The parts of a channel that are read: the platform's packages, and those for any."""

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@|/t/[^/]+(?=/)")
_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
_PAIR = re.compile(r"(?P<name>[a-z0-9][a-z0-9_.-]*)=(?P<place>\S.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaChannels:
    """This machine's way to channels. Addresses may hold credentials: they are never printed or stored.

    ``places`` maps a channel's name to where it is read from instead of its own address, ending in ``/``.
    ``condarc`` is what conda's own configuration says, ``authorities`` a file with certificates to trust.
    """

    places: Mapping[str, str] = field(repr=False)
    condarc: Condarc = field(default_factory=Condarc, repr=False)
    authorities: str | None = None

    @classmethod
    def from_machine(cls, environ: Mapping[str, str], options: Iterable[str] = ()) -> CondaChannels:
        """Ask the machine. For each channel the first counts of: ``--channel``, ``ENVBUILD_CONDA_CHANNELS``
        (``NAME=URL|DIR``, separated by spaces or line ends), conda's ``custom_channels`` and ``channel_alias``.

        Args:
            environ: the caller's environment, with what pip's configuration adds (``Indexes.environ``).
            options: what ``--channel`` was given.

        Raises:
            EnvbuildError: exit 2, an option, the variable or a .condarc that says nothing usable.
        """
        places: dict[str, str] = {}
        for source, pairs in (
            ("--channel", list(options)), (VARIABLE, environ.get(VARIABLE, "").split()),
        ):  # fmt: skip
            for pair in pairs:
                name, place = _pair(source, pair)
                places.setdefault(name, place)
        condarc = read_condarc(environ)
        own = condarc.ssl_verify if isinstance(condarc.ssl_verify, str) else None
        bundle = next((environ[name] for name in _BUNDLES if environ.get(name)), own)
        return cls(places=places, condarc=condarc, authorities=bundle)

    def place(self, name: str) -> str:
        """Where the channel is read from: an address that ends with ``/``; ``file:`` for a folder."""
        return self.places.get(name) or self.condarc.place(name) or canonical_url(name)

    def is_own(self, name: str) -> bool:
        """Whether the channel is read from its own address."""
        return self.place(name) == canonical_url(name)

    def address(self, lock: CondaLock, package: CondaPackage) -> str:
        """Where a locked package's file is fetched from on this machine."""
        if self.is_own(package.channel):
            return lock.url(package)
        return f"{self.place(package.channel)}{package.subdir}/{package.file}"

    def shown(self, name: str) -> str:
        """Where the channel is read from, for a message: without credentials and tokens."""
        return _CREDENTIALS.sub("", self.place(name))

    def client(self) -> Client:
        """py-rattler's client with conda's proxies; credentials from its own store or ``~/.netrc``.

        It takes a file with certificates from ``SSL_CERT_FILE`` only, and reads it here and not later.
        """
        from rattler import Client

        config = self.condarc.client_config()
        with _variable("SSL_CERT_FILE", self.authorities):
            return Client.from_config(config, user_agent="envbuild")


@contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """Set one variable of this process for as long as it takes to read it."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None:
            os.environ.pop(name)
            os.environ |= {name: before} if before is not None else {}


def canonical_url(name: str) -> str:
    """The address that py-rattler knows a channel's name by, ending in ``/``."""
    from rattler import Channel

    url = Channel(name).base_url
    return url if url.endswith("/") else f"{url}/"


def _pair(source: str, text: str) -> tuple[str, str]:
    match = _PAIR.fullmatch(text)
    if not match:
        raise _wrong(f'{source}: "{_CREDENTIALS.sub("", text)}" is not NAME=URL or NAME=DIR')
    place = match.group("place")
    if re.match(r"https?://[^/]", place):
        return match.group("name"), place.rstrip("/") + "/"
    place = url2pathname(urlsplit(place).path) if place.startswith("file://") else place
    if "://" in place:
        raise _wrong(f'{source}: "{_CREDENTIALS.sub("", place)}" is no http, https or file address')
    folder = Path(place).expanduser().absolute()
    _check_folder(source, folder)
    return match.group("name"), folder.as_uri() + "/"


def _check_folder(source: str, folder: Path) -> None:
    """A folder channel has ``repodata.json`` (or its .zst) for the platform and for noarch."""
    if not folder.is_dir():
        raise _wrong(f"{source}: there is no folder {folder}")
    for subdir in SUBDIRS:
        if not any((folder / subdir / f"repodata.json{suffix}").is_file() for suffix in ("", ".zst")):
            raise _wrong(
                f"{source}: {folder} is no channel: it has no {subdir}/repodata.json",
                "Name the folder that holds linux-64/ and noarch/; `python -m conda_index DIR` or py-rattler's "
                "`index_fs` make their repodata.json.",
            )  # fmt: skip


def _wrong(
    message: str, hint: str = "Write for example --channel conda-forge=/srv/conda-forge."
) -> EnvbuildError:
    return EnvbuildError("wrong-channel", message, hint=hint, exit=Exit.USAGE)
