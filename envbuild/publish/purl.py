"""Package URLs (ECMA-427): what a locked file is, in the words that scanners look packages up by. They name no host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envbuild.lock.model import Artifact
from envbuild.recipe.model import Ref

if TYPE_CHECKING:
    from packageurl import PackageURL

_RELEASES = {"bookworm": "12", "trixie": "13", "forky": "14"}


def purl_of(item: Artifact) -> PackageURL:
    """The package of ``item``: ``pkg:deb/debian/…`` or ``pkg:pypi/…``.

    A .deb has architecture and release, and ``upstream`` where its source package has another name: Debian's security
    tracker knows source packages only. An sdist, and a wheel that envbuild built, have their file's name, since the
    package index's wheel of that version would be another file.
    """
    from packageurl import PackageURL

    if item.kind == "deb":
        source = item.file.split("/")[-2] if "/" in item.file else item.name
        qualifiers = {
            "arch": item.basename.removesuffix(".deb").rpartition("_")[2],
            "distro": f"debian-{_release(item)}",
            **({"upstream": source} if source != item.name else {}),
        }
        return PackageURL("deb", "debian", item.name, item.version, qualifiers)
    named = item.kind == "sdist" or item.index == "built"
    return PackageURL("pypi", None, item.name, item.version, {"file_name": item.basename} if named else None)


def image_purl(ref: Ref, digest: str | None) -> PackageURL:
    """The image's: ``pkg:oci/NAME@sha256:…?tag=…``; without a digest where none is known."""
    from packageurl import PackageURL

    return PackageURL("oci", None, ref.name, digest, {"tag": ref.tag})


def _release(item: Artifact) -> str:
    """The release by its number, as Debian's ``os-release`` has it: ``12`` of ``debian/bookworm-security/main``."""
    suite = item.index.split("/")[1].partition("-")[0]
    return _RELEASES.get(suite, suite)
