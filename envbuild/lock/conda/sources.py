"""Where a conda lock's packages are to be had now, as files to fetch: mirrors, folders, or the channel itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from envbuild.lock.conda.channels import CondaChannels
from envbuild.lock.conda.model import CondaLock, CondaPackage
from envbuild.lock.indexes import Indexes
from envbuild.store import Source, Wanted


def wanted_packages(
    lock: CondaLock, packages: Sequence[CondaPackage], *, channels: CondaChannels, indexes: Indexes
) -> list[Wanted]:
    """The packages' files, each with its sources in the order to ask them.

    First the artifact mirror, if one is configured (``<mirror>/<sha256>/<file>``, then ``<mirror>/<file>``), then
    the channel, from where this machine reads it.
    """
    return [
        Wanted(
            name=f"{package.name} {package.version}",
            file=package.file,
            sha256=package.sha256,
            size=package.size,
            sources=(
                *_mirrored(package, indexes),
                Source(url=channels.address(lock, package), label=_label(channels, package.channel)),
            ),
        )
        for package in packages
    ]


def conda_environ(channels: CondaChannels, indexes: Indexes) -> Mapping[str, str]:
    """The environment for ``Http``: the machine's, and conda's proxies and certificates where it says none."""
    found = dict(indexes.environ)
    certificates = channels.condarc.ssl_verify
    if isinstance(certificates, str) and not any(
        found.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    ):
        found["SSL_CERT_FILE"] = certificates
    for scheme, proxy in channels.condarc.proxy_servers.items():
        names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
        if scheme in ("http", "https") and not any(found.get(name) for name in names):
            found[f"{scheme}_proxy"] = proxy
    return found


def _mirrored(package: CondaPackage, indexes: Indexes) -> list[Source]:
    if not indexes.artifacts:
        return []
    paths = (f"{package.sha256}/{quote(package.file)}", quote(package.file))
    return [Source(url=f"{indexes.artifacts}/{path}", label="the artifact mirror") for path in paths]


def _label(channels: CondaChannels, name: str) -> str:
    return f"channel {name}" if channels.is_own(name) else f"channel {name} ({channels.shown(name)})"
