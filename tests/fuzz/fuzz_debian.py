"""Readers of what comes from Debian: packages, indexes, release files, versions, copyright files."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from pathlib import Path
from random import Random

from debmaker import COMPRESSIONS, tar_of
from fuzz_engine import Reader, Source
from fuzz_mutation import Make, bytes_changed, bytes_of, either, text_changed, text_of
from fuzz_python import Answering

from envbuild.layers.debian_copyright import copyright_expression
from envbuild.layers.debs import essential, read_deb
from envbuild.layers.licences import _in_package
from envbuild.lock.debian.archive import Archive, Release
from envbuild.lock.debian.closure import Offer, closure
from envbuild.lock.debian.control import dependencies
from envbuild.lock.debian.signature import Keyring
from envbuild.lock.debian.version import DebianVersion
from envbuild.lock.model import Artifact
from envbuild.native.archives import members

CONTROL = (
    "Package: demo\nVersion: 1:1.0-1~deb12u1\nArchitecture: amd64\nEssential: yes\nPre-Depends: libc6 (>= 2.36)\n"
    "Depends: a (>= 1.0) | b [amd64], c:any\nProvides: virt (= 1)\nDescription: one\n two\n .\n three\n"
)
COPYRIGHT = (
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+ and MIT\n"
    " On Debian systems see /usr/share/common-licenses/GPL-2.\n\nLicense: MIT\n Permission is hereby granted, free of "
    "charge, to any person obtaining a copy\n"
)
FREE = (
    "This is free software under the GNU Lesser General Public License, version 2.1, or any later version.\n"
    "Redistribution and use in source and binary forms, advertising materials mentioning endorse or promote\n"
)
PACKAGES = (
    "Package: demo\nVersion: 1.0-1\nArchitecture: amd64\nEssential: yes\nDepends: libc6 (>= 2.36) | musl, other\n"
    f"Filename: pool/main/d/demo/demo_1.0-1_amd64.deb\nSize: 1234\nSHA256: {'ab' * 32}\n\n"
    "Package: libc6\nVersion: 2.36-9\nArchitecture: amd64\nProvides: musl (= 1)\nBreaks: other (<< 1)\n"
    f"Filename: pool/main/g/libc6.deb\nSize: 1\nSHA256: {'cd' * 32}\n\n"
    "Package: other\nVersion: 3\nArchitecture: all\nConflicts: demo (<< 0.1)\n"
    f"Filename: pool/o.deb\nSize: 9\nSHA256: {'ef' * 32}\n"
)
RELEASE = (
    "Origin: Debian\nSuite: stable\nCodename: bookworm\nDate: Sat, 08 Nov 2026 10:00:00 UTC\n"
    "Valid-Until: Sat, 15 Nov 2099 10:00:00 UTC\nSHA256:\n"
    f" {'ab' * 32} 1234 main/binary-amd64/Packages.xz\n {'cd' * 32} 99 main/binary-amd64/Packages.gz\n"
)
VERSIONS = "1:2.36-9+deb12u3\n2.36~rc1-1\n0\n1.0.0-1.1+b2\n"
_SOURCE = Source()
_TAR = tar_of({"control": CONTROL.encode(), "md5sums": b""})
_DATA = tar_of(
    {"usr/share/doc/demo/copyright": COPYRIGHT.encode(), "usr/bin/demo": b"x", "usr/lib/l": "../bin/demo"}
)


def ar(members_: dict[str, bytes]) -> bytes:
    """An ar archive."""
    out = b"!<arch>\n"
    for name, data in members_.items():
        out += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
            + data
            + b"\n" * (len(data) % 2)
        )
    return out


def _debs() -> Make:
    control, copyright_, tars = text_of(CONTROL), text_of(COPYRIGHT), bytes_of(_TAR, _DATA)

    def make(rng: Random) -> bytes:
        suffix = rng.choice(
            ("", "", ".gz", ".zst", ".bz2", ".xz") if rng.random() < 0.3 else ("", ".gz", ".zst")
        )
        pack = COMPRESSIONS[suffix]
        way = rng.randrange(4)
        first = tar_of({"control": control(rng)}) if way == 0 else tars(rng) if way == 1 else _TAR
        second = (
            tar_of({"usr/share/doc/demo/copyright": copyright_(rng)})
            if way == 0
            else tars(rng)
            if way == 1
            else _DATA
        )
        packed = pack(first), pack(second)
        if way == 2:
            packed = bytes_changed(rng, packed[0]), bytes_changed(rng, packed[1])
        data = ar(
            {"debian-binary": b"2.0\n", f"control.tar{suffix}": packed[0], f"data.tar{suffix}": packed[1]}
        )
        if way != 3 and rng.random() < 0.85:
            return data
        if rng.random() < 0.5:
            return bytes_changed(rng, data)
        at = rng.choice([place for place in (8, 72, 200) if place < len(data)])
        return (
            data[:at]
            + text_changed(rng, data[at : at + 60].decode("latin-1")).encode("utf-8", "replace")[:60]
            + data[at + 60 :]
        )

    return Make(
        make,
        ar(
            {
                "debian-binary": b"2.0\n",
                "control.tar.xz": lzma.compress(_TAR),
                "data.tar.xz": lzma.compress(_DATA),
            }
        ),
    )


def _deb(data: bytes) -> None:
    essential([read_deb(_SOURCE(data), "demo.deb")])


def _artifact() -> Artifact:
    return Artifact(
        kind="deb",
        name="demo",
        version="1",
        file="pool/d.deb",
        size=1,
        sha256="ab" * 32,
        index="debian/x/main",
    )


def _packages(data: bytes) -> None:
    """An index, and what is needed for a package of it."""
    path = "main/binary-amd64/Packages"
    release = Release(suite="bookworm", codename="bookworm", files={path: _listed(data)}, valid_until=None)
    closure(Offer(_archive(data).packages(release, "main")), ["demo"], asked={})


def _listed(data: bytes) -> tuple[str, int]:
    return hashlib.sha256(data).hexdigest(), len(data)


class _Believing(Keyring):
    """Takes what comes as signed: the text inside is what is tried here, gpgv has its own tests."""

    def verified(self, signed: bytes, what: str) -> str:
        return signed.decode("utf-8", "replace")


def _archive(data: bytes) -> Archive:
    keys = _Believing(gpgv="gpgv", path=Path("/dev/null"))
    return Archive(address="https://h.invalid", keyring=keys, http=Answering(data))  # type: ignore[arg-type]  # it asks get alone


def _release(data: bytes) -> None:
    _archive(data).release("bookworm", date="2026-11-20")


def _index(data: bytes) -> None:
    """A compressed index whose hash and size the release file has."""
    for ending in (".gz",) if data[:1] == b"\x1f" else (".xz",):
        files = {f"main/binary-amd64/Packages{ending}": _listed(data)}
        release = Release(suite="bookworm", codename="bookworm", files=files, valid_until=None)
        _archive(data).packages(release, "main")


def _versions(data: bytes) -> None:
    found = [DebianVersion(line) for line in data.decode("utf-8", "replace").split("\n")[:20]]
    for one in found:
        for other in found:
            assert (one.compare(other) > 0) == (other.compare(one) < 0)
            one.satisfies(">=", other)


def _compressed(data: bytes) -> Make:
    seeds = lzma.compress(data), gzip.compress(data, mtime=0)
    return bytes_of(*seeds)


_WORDS = (
    " (>= 1.0)",
    " | ",
    ", ",
    " (<< ",
    "[!amd64]",
    ":any",
    "²",
    "~",
    "+",
    "Package: demo",
    "Size: ",
    "\n\n",
    "\n ",
)
_DEBS = _debs()

READERS = [
    Reader(name="deb", make=_DEBS, read=_deb),
    Reader(
        name="deb-files",
        make=_DEBS,
        read=lambda data: [item.read() for item in members(_artifact(), _SOURCE(data))],
    ),
    Reader(name="deb-copyright", make=_DEBS, read=lambda data: _in_package(_artifact(), _SOURCE(data))),
    Reader(name="debian-packages", make=text_of(PACKAGES, more=_WORDS), read=_packages),
    Reader(name="debian-packages-compressed", make=_compressed(PACKAGES.encode()), read=_index),
    Reader(name="debian-release", make=text_of(RELEASE, more=_WORDS), read=_release),
    Reader(name="debian-version", make=text_of(VERSIONS, more=_WORDS), read=_versions),
    Reader(
        name="debian-relation",
        make=text_of("a (>= 1.0) | b [amd64], c:any, d (= 1:2~3)", more=_WORDS),
        read=lambda data: dependencies(data.decode("utf-8", "replace")),
    ),
    Reader(
        name="copyright",
        make=either(text_of(COPYRIGHT), text_of(FREE)),
        read=lambda data: copyright_expression(data.decode("utf-8", "replace"), "demo"),
    ),
]
