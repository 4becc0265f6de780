"""py-rattler's records and the lock's packages: from one to the other."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from envbuild.lock.conda.model import CondaLock, CondaPackage

if TYPE_CHECKING:
    from rattler import GenericVirtualPackage, PackageRecord, RepoDataRecord


def to_package(record: RepoDataRecord, channel: str) -> CondaPackage:
    """A solved record as a locked package of the channel of that name."""
    assert record.sha256 is not None
    assert record.size is not None
    noarch = record.noarch
    kind = "python" if noarch.python else "generic" if noarch.generic else None
    stamp = record.timestamp  # py-rattler gives a time of 0 as the number
    return CondaPackage(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        build_number=record.build_number,
        subdir=record.subdir,
        file=record.file_name,
        size=record.size,
        sha256=record.sha256.hex(),
        channel=channel,
        md5=record.md5.hex() if record.md5 else None,
        depends=tuple(record.depends),
        constrains=tuple(record.constrains),
        noarch=kind,
        license=record.license,
        timestamp=None if stamp is None else round(stamp.timestamp() * 1000) if stamp else 0,
        python_site_packages_path=record.python_site_packages_path,
        track_features=tuple(record.track_features),
    )


def to_record(lock: CondaLock, package: CondaPackage, url: str | None = None) -> RepoDataRecord:
    """A locked package as py-rattler's record.

    Args:
        lock: the package's lock.
        package: one of its packages.
        url: where the file is to be had, where that is not its own channel.
    """
    from rattler import BuildString, PackageRecord, RepoDataRecord

    channel = next(item for item in lock.channels if item.name == package.channel)
    record = PackageRecord(
        name=package.name,
        version=package.version,
        build=BuildString(package.build),
        build_number=package.build_number,
        subdir=package.subdir,
        noarch=package.noarch,  # type: ignore[arg-type]  # the two words that the model lets through
        depends=list(package.depends),
        constrains=list(package.constrains),
        sha256=bytes.fromhex(package.sha256),
        md5=bytes.fromhex(package.md5) if package.md5 else None,
        size=package.size,
        license=package.license,
        python_site_packages_path=package.python_site_packages_path,
    )
    if package.timestamp is not None:
        record.timestamp = datetime.datetime.fromtimestamp(package.timestamp / 1000, datetime.UTC)
    record.track_features = list(package.track_features)
    return RepoDataRecord(record, package.file, url or lock.url(package), channel.url)


def address(url: str) -> None:
    """See that py-rattler can take the address of a channel or a package. Raises its exception where it cannot."""
    from rattler import BuildString, PackageRecord, RepoDataRecord

    record = PackageRecord("a", "1", BuildString("0"), 0, "linux-64")
    RepoDataRecord(record, "a-1-0.conda", f"{url}linux-64/a-1-0.conda", url)


def virtual_packages(virtual: dict[str, str]) -> list[GenericVirtualPackage]:
    """The virtual packages of a lock (``CondaLock.virtual``) as py-rattler's."""
    from rattler import BuildString, GenericVirtualPackage, PackageName, Version

    found = []
    for name, text in virtual.items():
        version, _, build = text.partition("=")
        found.append(GenericVirtualPackage(PackageName(name), Version(version), BuildString(build or "0")))
    return found


def virtual_records(virtual: dict[str, str]) -> dict[str, PackageRecord]:
    """The virtual packages of a lock by name, as records that a MatchSpec can be held against."""
    from rattler import BuildString, PackageRecord

    found = {}
    for name, text in virtual.items():
        version, _, build = text.partition("=")
        found[name] = PackageRecord(name, version, BuildString(build or "0"), 0, "linux-64")
    return found
