"""Programs that tests use and that a machine may lack: such a test is skipped, and the reason names Debian's package.

With ENVBUILD_TEST_STRICT=1, which ``.ci/run`` sets, it fails instead. ``@pytest.mark.needs("skopeo")`` marks a test or
a module, :func:`need` is for fixtures and helpers. Where a test itself starts a program of this table, neither is
needed: ``FileNotFoundError`` tells. What envbuild starts, and what a shell starts, must be said.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, NoReturn

import pytest

STRICT: Final = "ENVBUILD_TEST_STRICT"

PACKAGES: Final = {
    "busybox": "busybox-static",
    "cc": "gcc",
    "chromium": "chromium",
    "cosign": "cosign (Debian has it since trixie)",
    "crun": "crun",
    "curl": "curl",
    "docker-registry": "docker-registry",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "g++": "g++",
    "gcc": "gcc",
    "git": "git",
    "gpg": "gnupg",
    "gpgconf": "gnupg",
    "gpgv": "gpgv",
    "ip": "iproute2",
    "libfaketime": "libfaketime",
    "newuidmap": "uidmap",
    "openssl": "openssl",
    "pigz": "pigz",
    "podman": "podman",
    "ps": "procps",
    "python3-dev": "python3-dev",
    "readelf": "binutils",
    "runc": "runc",
    "skopeo": "skopeo",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "strip": "binutils",
    "xz": "xz-utils",
}
"""What Debian's package is called that brings a program (or a file of ``FILES``)."""

FILES: Final = {
    "libfaketime": Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    "python3-dev": Path("/usr/include/python3.11/Python.h"),
}
"""What is no program, and where it lies."""


def found(name: str) -> str | None:
    """Where a program is (or a file of ``FILES``); ``None`` where it is not."""
    if name in FILES:
        return str(FILES[name]) if FILES[name].exists() else None
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def lacking(reason: str) -> NoReturn:
    """Skip the test that asks, or fail it where nothing may be lacking."""
    __tracebackhide__ = True
    if os.environ.get(STRICT) == "1":
        pytest.fail(f"{reason} ({STRICT}=1: no test may be skipped for this)", pytrace=False)
    pytest.skip(reason)


def need(*names: str) -> str:
    """The path of the last of ``names``, all of which are needed."""
    __tracebackhide__ = True
    path = ""
    for name in names:
        path = found(name) or lacking(f"needs {name}: apt-get install {PACKAGES[name]}")
    return path


def explain(error: FileNotFoundError) -> None:
    """Skip (or fail) if what was not found is a program of ``PACKAGES`` that is not on this machine."""
    __tracebackhide__ = True
    name = Path(os.fsdecode(error.filename)).name if isinstance(error.filename, str | bytes | Path) else ""
    if name in PACKAGES and found(name) is None:
        need(name)
