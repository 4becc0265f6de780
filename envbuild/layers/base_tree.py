"""The base's tree before dpkg has run and after: called through ``Sandbox.call``, as the sandbox's uid 0."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from envbuild.layers.debs import data_tar
from envbuild.layers.format import MTIME
from envbuild.sandbox.tree_writer import TreeWriter

EXCLUDED = (
    "usr/share/doc/",
    "usr/share/groff/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/linda/",
    "usr/share/locale/",
    "usr/share/man/",
)
"""What dpkg leaves out, now and when a user installs more: as in Debian's own slim images. Licences stay."""

_DPKG_CONFIG = "etc/dpkg/dpkg.cfg.d/envbuild"
_POLICY = "usr/sbin/policy-rc.d"
_DAY = 86400

_USER = "envbuild"
_HOME = "home/envbuild"
_ID = 1000

_EMPTIED = (
    "boot", "dev", "proc", "run", "sys", "tmp", "var/cache/apt", "var/cache/ldconfig", "var/lib/apt/lists", "var/tmp",
)  # fmt: skip
_REMOVED = (
    _POLICY,
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/hostname",
    "etc/machine-id",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "root/.cache",
    "root/.rnd",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/passwords.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/man",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/random-seed",
    "var/lib/urandom/random-seed",
)
_REMOVED_PATTERNS = ("etc/ssh/ssh_host_*", "**/__pycache__/*.pyc", "**/__pycache__/*.pyo")
_PLAIN_MODE = ("usr/bin/netkit-rcp", "usr/bin/netkit-rlogin", "usr/bin/netkit-rsh")
"""pdsh brings rsh's clients, set-uid root for a protocol without encryption; nothing here needs them so."""


def prepare(arguments: Mapping[str, object], advance: Callable[[int], None]) -> None:
    """Make ``root`` with a merged /usr, unpack ``essential`` (paths of .debs), and set dpkg up.

    These packages are unpacked without their scripts; dpkg then installs them over it.
    """
    root = Path(str(arguments["root"]))
    essential = arguments["essential"]
    assert isinstance(essential, list)
    root.mkdir(0o755)
    root.chmod(0o755)
    writer = TreeWriter(str(root), keep_links=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for path in essential:
        with data_tar(Path(path)) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                if not _left_out(entry.name):
                    writer.add(entry, archive.extractfile(entry) if entry.isreg() else None)
        advance(1)
    writer.finish()
    _write(root / "var/lib/dpkg/status", "")
    _write(root / "var/lib/dpkg/available", "")
    lines = [f"path-exclude=/{folder}*" for folder in EXCLUDED] + ["path-include=/usr/share/doc/*/copyright"]
    _write(root / _DPKG_CONFIG, "".join(f"{line}\n" for line in lines))
    _write(root / _POLICY, "#!/bin/sh\nexit 101\n", mode=0o755)


def _left_out(name: str) -> bool:
    relative = name.removeprefix("./")
    return relative.startswith(EXCLUDED) and not (
        relative.startswith("usr/share/doc/") and relative.endswith(("/", "/copyright"))
    )


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def normalise(arguments: Mapping[str, object], _advance: Callable[[int], None]) -> list[str]:
    """Remove from ``root`` what differs between two builds, add the user, and fix every mtime.

    Returns:
        The absolute paths (in the root) of the Python files whose byte code was removed, sorted: it has to be
        compiled again, against the new mtimes.
    """
    root = Path(str(arguments["root"]))
    stale = sorted(_sources(root))
    for relative in _EMPTIED:
        for entry in sorted((root / relative).glob("*")):
            _remove(entry)
    for pattern in (*_REMOVED, *_REMOVED_PATTERNS):
        for entry in sorted(root.glob(pattern)):
            _remove(entry)
    for relative in _PLAIN_MODE:
        if (root / relative).is_file():
            (root / relative).chmod(0o755)
    for log in sorted((root / "var/log").rglob("*")):
        if not log.is_dir():
            log.unlink()
    _write(root / "etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    _remove(root / "etc/resolv.conf")
    _write(root / "etc/resolv.conf", "")
    _add_user(root)
    _fix_shadow(root / "etc/shadow")
    fix_times({"root": str(root)}, _advance)
    return stale


def fix_times(arguments: Mapping[str, object], _advance: Callable[[int], None]) -> None:
    """Give every file, folder and link below ``root`` the constant mtime."""
    root = str(arguments["root"])
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            os.utime(os.path.join(folder, name), (MTIME, MTIME), follow_symlinks=False)
    os.utime(root, (MTIME, MTIME))


def _sources(root: Path) -> list[str]:
    """The .py files that have byte code, as absolute paths inside the root."""
    found = []
    for code in root.glob("usr/**/__pycache__/*.cpython-*.pyc"):
        source = code.parent.parent / (code.name.partition(".cpython-")[0] + ".py")
        if source.is_file():
            found.append(f"/{source.relative_to(root)}")
    return sorted(set(found))


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def _add_user(root: Path) -> None:
    """The user besides root, in the four files, with a home made from /etc/skel.

    No password fits (``*``); the account is not locked (``!``), because sshd lets no key into a locked one.
    """
    lines = {
        "passwd": f"{_USER}:x:{_ID}:{_ID}::/{_HOME}:/bin/bash",
        "group": f"{_USER}:x:{_ID}:",
        "shadow": f"{_USER}:*:{MTIME // _DAY}:0:99999:7:::",
        "gshadow": f"{_USER}:!::",
    }
    for name, line in lines.items():
        path = root / "etc" / name
        if path.exists():
            with path.open("a") as stream:
                stream.write(line + "\n")
    home = root / _HOME
    shutil.copytree(root / "etc/skel", home, symlinks=True)
    home.chmod(0o755)
    for path in (home, *home.rglob("*")):
        os.chown(path, _ID, _ID, follow_symlinks=False)


def _fix_shadow(path: Path) -> None:
    """The day of the last password change (shadow(5), field 3) is the day of the build: make it a constant."""
    if not path.exists():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    rows = [line.split(":") for line in path.read_text().splitlines()]
    for row in rows:
        if len(row) > 2:
            row[2] = str(MTIME // _DAY)
    path.write_text("".join(":".join(row) + "\n" for row in rows))
    path.chmod(mode)
