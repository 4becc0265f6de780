"""The base's tree before dpkg has run and after: called through ``Sandbox.call``, as the sandbox's uid 0.

All of it happens inside of the tree (:mod:`envbuild.sandbox.inside`): paths here are the tree's.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from envbuild.errors import EnvbuildError
from envbuild.layers.base_pack import hostile, tree_guarded
from envbuild.layers.debs import DEB_FAULTS, damaged, data_tar
from envbuild.layers.format import MTIME
from envbuild.oci.tar_reader import entries
from envbuild.oci.trees import remove_tree, too_long, walk
from envbuild.sandbox.inside import within
from envbuild.sandbox.tarstream import Frames, send_frames
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
_PROGRAM = 0o755

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
_LARGEST_TABLE = 16 << 20
"""Bytes of a table of users: Debian's have some hundred."""

_PLAIN_MODE = ("usr/bin/netkit-rcp", "usr/bin/netkit-rlogin", "usr/bin/netkit-rsh")
"""pdsh brings rsh's clients, set-uid root for a protocol without encryption; nothing here needs them so."""


def prepare(arguments: Mapping[str, object], advance: Callable[[int], None]) -> None:
    """Make ``root`` with a merged /usr, unpack ``essential`` (path and file name of .debs), and set dpkg up.

    These packages are unpacked without their scripts; dpkg then installs them over it.

    Raises:
        EnvbuildError: exit 5, ``deb-damaged`` or ``tree-hostile``.
    """
    root = Path(str(arguments["root"]))
    essential = arguments["essential"]
    assert isinstance(essential, list)
    root.mkdir(0o755)
    root.chmod(0o755)
    labels = [str(label) for _, label in essential]

    def send(pipe: IO[bytes]) -> None:
        for path, label in essential:
            with _sound(label), data_tar(Path(path)) as stream:
                send_frames(stream, pipe)
            advance(1)

    within(str(root), lambda pipe: _prepare(pipe, labels), send)


def _prepare(pipe: IO[bytes], labels: Sequence[str]) -> None:
    writer = TreeWriter("/", keep_links=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        os.makedirs(f"/usr/{name}")
        os.symlink(f"usr/{name}", f"/{name}")
    frames = Frames(pipe)
    for label in labels:
        frames.start()
        with _sound(label):
            for entry, content in entries(frames):
                if not _left_out(entry.name):
                    writer.add(entry, content)
            frames.drain()
    writer.finish()
    with tree_guarded():
        _write("/var/lib/dpkg/status", "")
        _write("/var/lib/dpkg/available", "")
        lines = [f"path-exclude=/{folder}*" for folder in EXCLUDED] + [
            "path-include=/usr/share/doc/*/copyright"
        ]
        _write(f"/{_DPKG_CONFIG}", "".join(f"{line}\n" for line in lines))
        _write(f"/{_POLICY}", "#!/bin/sh\nexit 101\n", mode=0o755)


@contextmanager
def _sound(label: str) -> Iterator[None]:
    """Name the package whose tar is damaged or hostile."""
    try:
        yield
    except EnvbuildError as error:
        if error.id != "layer-hostile":
            raise
        raise damaged(label, f"it {error.message.removeprefix('the layer ')}") from error
    except DEB_FAULTS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise damaged(label, str(error)) from error


def _left_out(name: str) -> bool:
    relative = name.removeprefix("./")
    return relative.startswith(EXCLUDED) and not (
        relative.startswith("usr/share/doc/") and relative.endswith(("/", "/copyright"))
    )


def _write(path: str, text: str, *, mode: int = 0o644) -> None:
    """Write a file, in place of a link or whatever else a package left there."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    with open(fd, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(path, mode)


def normalise(arguments: Mapping[str, object], _advance: Callable[[int], None]) -> list[str]:
    """Remove from ``root`` what differs between two builds, add the user, and fix every mtime.

    Returns:
        The absolute paths (in the root) of the Python files whose byte code was removed, sorted: it has to be
        compiled again, against the new mtimes.

    Raises:
        EnvbuildError: exit 5, ``tree-hostile``.
    """
    stale = within(str(arguments["root"]), lambda _: _normalise())
    assert isinstance(stale, list)
    return stale


def _normalise() -> list[str]:
    with tree_guarded():
        paths = [path for path, _ in _bounded("/")]
        stale = sorted({source for path in paths if (source := _source(path))})
        for relative in _EMPTIED:
            _clear(f"/{relative}")
        for relative in _REMOVED:
            _remove(f"/{relative}")
        for path in paths:
            if _differs(path):
                _remove(f"/{path}")
        for relative in _PLAIN_MODE:
            if os.path.lexists(f"/{relative}") and stat.S_ISREG(os.lstat(f"/{relative}").st_mode):
                os.chmod(f"/{relative}", _PROGRAM)
        if _is_folder("/var/log"):
            for path, found in list(walk("/var/log")):
                if not stat.S_ISDIR(found.st_mode) and not os.path.isdir(f"/var/log/{path}"):
                    os.unlink(f"/var/log/{path}")
        _write("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
        _remove("/etc/resolv.conf")
        _write("/etc/resolv.conf", "")
        _add_user()
        _fix_shadow("/etc/shadow")
        _fix_times()
    return stale


def fix_times(arguments: Mapping[str, object], _advance: Callable[[int], None]) -> None:
    """Give every file, folder and link below ``root`` the constant mtime."""
    within(str(arguments["root"]), lambda _: _fix_times())


def _fix_times() -> None:
    with tree_guarded():
        for path, _ in _bounded("/"):
            os.utime(f"/{path}", (MTIME, MTIME), follow_symlinks=False)
        os.utime("/", (MTIME, MTIME))


def _bounded(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every path below a folder, none deeper than what may be unpacked."""
    for path, found in walk(root):
        if reason := too_long(path):
            raise hostile(path, reason)
        yield path, found


def _source(path: str) -> str | None:
    """The .py file of byte code below /usr, where it is there."""
    folder, _, name = path.rpartition("/")
    if not folder.startswith("usr/") or not folder.endswith("/__pycache__"):
        return None
    if not fnmatchcase(name, "*.cpython-*.pyc"):
        return None
    source = f"/{folder.rpartition('/')[0]}/{name.partition('.cpython-')[0]}.py"
    return source if os.path.isfile(source) else None


def _differs(path: str) -> bool:
    """Whether this is a key made for one machine, or byte code: they are never the same twice."""
    folder, _, name = path.rpartition("/")
    if folder == "etc/ssh":
        return name.startswith("ssh_host_")
    return f"/{folder}".endswith("/__pycache__") and name.endswith((".pyc", ".pyo"))


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _clear(folder: str) -> None:
    """Empty a folder. A link to another one is left alone: what lies there has a name of its own."""
    for name in sorted(os.listdir(folder)) if _is_folder(folder) else []:
        _remove(f"{folder}/{name}")


def _remove(path: str) -> None:
    with suppress(NotADirectoryError):
        remove_tree(path)


def _add_user() -> None:
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
        with _table(f"/etc/{name}") as stream:
            if stream is not None:
                stream.seek(0, os.SEEK_END)
                stream.write(line + "\n")
    home = f"/{_HOME}"
    os.makedirs(home)
    if os.path.isdir("/etc/skel"):
        for path, found in _bounded("/etc/skel"):
            _copy(f"/etc/skel/{path}", f"{home}/{path}", found)
    os.chmod(home, _PROGRAM)
    os.chown(home, _ID, _ID)


def _copy(source: str, target: str, found: os.stat_result) -> None:
    """Copy a folder without its content, a link, or a file, for the user. Others are no part of an image."""
    if stat.S_ISDIR(found.st_mode):
        os.mkdir(target)
        os.chmod(target, stat.S_IMODE(found.st_mode))
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(found.st_mode):
        with open(source, "rb") as reading, open(target, "xb") as writing:
            shutil.copyfileobj(reading, writing)
        os.chmod(target, stat.S_IMODE(found.st_mode))
    else:
        return
    os.chown(target, _ID, _ID, follow_symlinks=False)


@contextmanager
def _table(path: str) -> Iterator[IO[str] | None]:
    """A table of users, to be read and written; ``None`` where there is none."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        yield None
        return
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_TABLE:
        os.close(fd)
        raise hostile(path, "is no table of users: no file, or too large a one")
    with open(fd, "r+", encoding="utf-8", errors="surrogateescape") as stream:
        yield stream


def _fix_shadow(path: str) -> None:
    """The day of the last password change (shadow(5), field 3) is the day of the build: make it a constant."""
    with _table(path) as stream:
        if stream is None:
            return
        rows = [line.split(":") for line in stream.read().splitlines()]
        for row in rows:
            if len(row) > 2:
                row[2] = str(MTIME // _DAY)
        stream.seek(0)
        stream.truncate()
        stream.write("".join(":".join(row) + "\n" for row in rows))
