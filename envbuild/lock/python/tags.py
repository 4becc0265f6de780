"""Which wheel of a package fits the image best (platform compatibility tags, PEP 425 and PEP 600)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from envbuild.lock.python.uv import RemoteFile

_LEGACY = {17: "manylinux2014_x86_64", 12: "manylinux2010_x86_64", 5: "manylinux1_x86_64"}
IMAGE_GLIBC = 36
"""The image's C library: Debian 12 has glibc 2.36."""


@lru_cache
def _ranks(python: str, glibc: int) -> dict[Tag, int]:
    version = tuple(int(part) for part in python.split("."))
    platforms = []
    for minor in range(glibc, 4, -1):
        platforms.append(f"manylinux_2_{minor}_x86_64")
        if minor in _LEGACY:
            platforms.append(_LEGACY[minor])
    platforms.append("linux_x86_64")
    interpreter = "cp" + "".join(str(part) for part in version)
    ordered = [*cpython_tags(version, platforms=platforms), *compatible_tags(version, interpreter, platforms)]
    ranks: dict[Tag, int] = {}
    for tag in ordered:
        ranks.setdefault(tag, len(ranks))
    return ranks


def best_wheel(wheels: Sequence[RemoteFile], python: str, glibc: int = IMAGE_GLIBC) -> RemoteFile | None:
    """The wheel whose best tag pip would prefer on CPython ``python`` with glibc 2.``glibc`` on x86-64.

    Equal tags are told apart by the build number (higher wins, wheel specification), then by the file's name.
    """
    ranked: list[tuple[int, tuple[int, str], str, RemoteFile]] = []
    ranks = _ranks(python, glibc)
    for wheel in wheels:
        try:
            _, _, build, tags = parse_wheel_filename(wheel.name)
        except ValueError:  # InvalidWheelFilename is one; a version of 5,000 digits is another
            continue
        fitting = [ranks[tag] for tag in tags if tag in ranks]
        if fitting:
            number = (-build[0], build[1]) if build else (0, "")
            ranked.append((min(fitting), number, wheel.name, wheel))
    return min(ranked, key=lambda item: item[:3])[3] if ranked else None
