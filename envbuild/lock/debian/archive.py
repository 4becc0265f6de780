"""A Debian archive: the signed release file and the package indexes that it vouches for (repository format)."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, cast

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.debian.control import DebPackage, packages, paragraphs
from envbuild.lock.debian.signature import Keyring
from envbuild.lock.wayout import with_way_out
from envbuild.oci.digest import is_sha256
from envbuild.store import Http
from envbuild.store.http import number
from envbuild.store.network import date_of

_LIMIT = 256 << 20
_UNPACK: dict[str, Callable[[BytesIO], IO[bytes]]] = {
    ".xz": lzma.LZMAFile,
    ".gz": lambda stream: cast("IO[bytes]", gzip.GzipFile(fileobj=stream)),
    "": lambda stream: stream,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release file whose signature holds: hashes and sizes (bytes) of the suite's indexes by path."""

    suite: str
    codename: str
    files: Mapping[str, tuple[str, int]] = field(repr=False)
    valid_until: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A mirror, the keys that may sign for it, and the connections. ``address`` holds no suite."""

    address: str = field(repr=False)
    keyring: Keyring
    http: Http

    def release(self, suite: str, *, date: str) -> Release:
        """Fetch ``InRelease`` of a suite and check its signature, its name and that it is still valid.

        Args:
            suite: a code name such as ``bookworm``, or ``bookworm-security``.
            date: today's date (``YYYY-MM-DD``), against which ``Valid-Until`` is held.

        Raises:
            EnvbuildError: exit 4, the mirror does not have it; exit 5, it does not verify.
        """
        what = f"InRelease of {suite}"
        try:
            data = self.http.get(
                f"{self.address}/dists/{suite}/InRelease", label="Debian's mirror", limit=_LIMIT
            )
        except EnvbuildError as error:
            if error.id != "not-found":
                raise with_way_out(error, "ENVBUILD_DEBIAN_MIRROR") from error
            raise EnvbuildError(
                "no-such-suite", f"Debian's mirror has no suite {suite}", exit=Exit.NETWORK,
                hint="Set ENVBUILD_DEBIAN_MIRROR to a full mirror of Debian.",
            ) from None  # fmt: skip
        text = self.keyring.verified(data, what)
        fields = next(paragraphs(text), {})
        names = {fields.get("codename"), fields.get("suite")}
        if suite not in names:
            raise _wrong(what, f"is the release file of {fields.get('codename')}")
        until = fields.get("valid-until")
        day = date_of(until) if until else None
        if until and day is None:
            raise _wrong(what, f"has a Valid-Until that is no date: {until[:80]!r}")
        release = Release(
            suite=suite, codename=fields.get("codename", suite), files=_files(fields.get("sha256", "")),
            valid_until=day.date().isoformat() if day else None,
        )  # fmt: skip
        if release.valid_until and release.valid_until < date:
            raise _wrong(what, f"was valid until {release.valid_until} only: the mirror is behind")
        return release

    def packages(self, release: Release, component: str) -> list[DebPackage]:
        """The packages of a component, from an index whose hash and size the release file gives.

        Raises:
            EnvbuildError: exit 4, the mirror does not have it; exit 5, it is not what the release file says.
        """
        for ending, unpack in _UNPACK.items():
            path = f"{component}/binary-amd64/Packages{ending}"
            if path in release.files:
                data = self._index(release, path)
                try:
                    text = unpack(BytesIO(data)).read(_LIMIT + 1)
                    if len(text) > _LIMIT:
                        raise ValueError(f"it has more than {_LIMIT} bytes")
                    decoded = text.decode("utf-8", "replace")
                    return list(packages(decoded, suite=release.suite, component=component))
                except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
                    raise _wrong(f"{path} of {release.suite}", f"cannot be unpacked: {error}") from None
                except (ValueError, KeyError) as error:
                    raise _wrong(f"{path} of {release.suite}", f"cannot be read: {error}") from None
        raise _wrong(f"InRelease of {release.suite}", f"names no packages of {component} for amd64")

    def _index(self, release: Release, path: str) -> bytes:
        sha256, size = release.files[path]
        base = f"{self.address}/dists/{release.suite}"
        folder = path.rpartition("/")[0]
        data = b""
        for address in (f"{base}/{folder}/by-hash/SHA256/{sha256}", f"{base}/{path}"):
            try:
                data = self.http.get(address, label="Debian's mirror", limit=min(max(size, 1), _LIMIT))
            except EnvbuildError as error:
                if error.id != "not-found" or address.endswith(path):
                    raise with_way_out(error, "ENVBUILD_DEBIAN_MIRROR") from error
                continue
            if len(data) == size and hashlib.sha256(data).hexdigest() == sha256:
                return data
        seen = hashlib.sha256(data).hexdigest()
        raise _wrong(f"{path} of {release.suite}", f"has sha256 {seen}, the release file says {sha256}")


def _files(text: str) -> dict[str, tuple[str, int]]:
    found = {}
    for line in text.splitlines():
        parts = line.split()
        size = number(parts[1]) if len(parts) == 3 else None
        if size is not None and is_sha256(parts[0]):
            found[parts[2]] = (parts[0], size)
    return found


def _wrong(what: str, reason: str) -> EnvbuildError:
    return EnvbuildError(
        "debian-index-wrong", f"{what} {reason}", exit=Exit.VERIFY,
        hint="The mirror may be half-way through an update: try again in some minutes, or use another mirror "
        "(ENVBUILD_DEBIAN_MIRROR).",
    )  # fmt: skip
