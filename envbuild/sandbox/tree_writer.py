"""Writes tar entries below a folder, and nowhere else.

Parents are resolved as in a chroot: a symbolic link that a layer brings is followed inside the root only (OCI
image spec, layer.md, "Applying Changesets"). Whiteouts remove what lower layers brought.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Mapping
from typing import IO

from envbuild.errors import EnvbuildError, Exit

_COPY = 1 << 20
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_LINKS = 40
_XATTR = "SCHILY.xattr."


def refuse(name: str, reason: str) -> EnvbuildError:
    """A tar entry that must not be unpacked."""
    return EnvbuildError(
        "layer-hostile",
        f"the layer has an entry that {reason}: {name!r}",
        hint="the blob is not what a builder makes: fetch it again, or from elsewhere",
        exit=Exit.VERIFY,
    )


class TreeWriter:
    """Applies the entries of one or more layers, lowest first, to the folder ``root``.

    Call :meth:`add` for each entry and :meth:`finish` once at the end. With ``keep_links`` a folder does not replace
    a symbolic link to a folder: what dpkg does, and a merged /usr needs. With ``overlaid`` the root is one layer of
    several that overlayfs stacks, so the whiteout of a file stays, in overlayfs's own form.
    """

    def __init__(self, root: str, *, keep_links: bool = False, overlaid: bool = False) -> None:
        self._root = root
        self._keep_links = keep_links
        self._overlaid = overlaid
        self._real: dict[str, str] = {"": root}
        self._folders: dict[str, tuple[int, float]] = {root: (0o755, 0.0)}
        self._fresh: set[str] = set()
        self.entries = 0

    def start_layer(self) -> None:
        """Forget what the layer below brought: whiteouts of the next one hide all of it."""
        self._fresh = set()

    def add(self, entry: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        """Make one entry; ``content`` is its data if it is a regular file.

        Raises:
            EnvbuildError: exit 5; the entry's name or link leads out of the root.
        """
        self.entries += 1
        parent, name = self._split(entry.name)
        if name == _OPAQUE:
            self._empty(parent)
        elif name.startswith(_WHITEOUT):
            self._hide(os.path.join(parent, name[len(_WHITEOUT) :]))
        elif not name:
            self._folders[self._root] = (entry.mode, entry.mtime)
            os.chown(self._root, entry.uid, entry.gid)
        else:
            path = os.path.join(parent, name)
            self._fresh.add(path)
            self._make(entry, path, content)

    def finish(self) -> None:
        """Give folders their modes and times, deepest first (writing into them changed both)."""
        for path in sorted(self._folders, key=len, reverse=True):
            mode, mtime = self._folders[path]
            with contextlib.suppress(FileNotFoundError):
                os.chmod(path, mode)
                os.utime(path, (mtime, mtime))

    def _split(self, name: str) -> tuple[str, str]:
        """The real folder and the last part of an entry's name."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in name:
            raise refuse(name, "leads out of its folder")
        if not parts:
            return self._root, ""
        return self._folder("/".join(parts[:-1])), parts[-1]

    def _folder(self, relative: str) -> str:
        """The real path of a folder inside the root, made if it is missing."""
        known = self._real.get(relative)
        if known is not None:
            return known
        path, pending, links = self._root, relative.split("/")[::-1], 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                path = os.path.dirname(path) if path != self._root else path
                continue
            inner = os.path.join(path, part)
            try:
                mode = os.lstat(inner).st_mode
            except FileNotFoundError:
                os.mkdir(inner, 0o755)
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                links += 1
                if links > _LINKS:
                    raise refuse(relative, "goes through a circle of symbolic links")
                target = os.readlink(inner)
                path = self._root if target.startswith("/") else path
                pending.extend(target.split("/")[::-1])
                continue
            if not stat.S_ISDIR(mode):
                raise refuse(relative, "goes through a file")
            path = inner
        self._real[relative] = path
        return path

    def _make(self, entry: tarfile.TarInfo, path: str, content: IO[bytes] | None) -> None:
        if entry.isdir():
            self._make_folder(entry, path)
            return
        self._remove(path)
        if entry.isreg():
            assert content is not None
            self._make_file(entry, path, content)
        elif entry.islnk():
            folder, name = self._split(entry.linkname)
            source = os.path.join(folder, name)
            if not name or not os.path.lexists(source):
                raise refuse(entry.name, f"links to {entry.linkname!r}, which is not there")
            os.link(source, path, follow_symlinks=False)
        elif entry.issym():
            os.symlink(entry.linkname, path)
            os.lchown(path, entry.uid, entry.gid)
            os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)
            self._real = {"": self._root}
        elif entry.isfifo():
            os.mkfifo(path)
            os.lchown(path, entry.uid, entry.gid)
            os.chmod(path, entry.mode & 0o7777)
        elif not entry.isdev():
            raise refuse(entry.name, f"has the unknown type {entry.type!r}")
        # Device nodes are left out: the sandbox and the engines bring their own /dev.

    def _make_folder(self, entry: tarfile.TarInfo, path: str) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if self._keep_links and os.path.islink(path):
                return
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                self._remove(path)
                os.mkdir(path, 0o700)
        os.chown(path, entry.uid, entry.gid)
        os.chmod(path, 0o700)
        self._folders[path] = (entry.mode & 0o7777, entry.mtime)

    def _make_file(self, entry: tarfile.TarInfo, path: str, content: IO[bytes]) -> None:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while data := content.read(_COPY):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode & 0o7777)
            _set_xattrs(fd, entry.pax_headers)
            os.utime(fd, (entry.mtime, entry.mtime))
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        finally:
            os.close(fd)

    def _remove(self, path: str) -> None:
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            self._real = {"": self._root}

    def _hide(self, path: str) -> None:
        """Apply a whiteout. For overlayfs it is a character device 0:0 (Linux, filesystems/overlayfs, "whiteouts")."""
        if not self._overlaid:
            self._remove(path)
        elif path not in self._fresh:
            # A user namespace may make this one device since Linux 5.8; before, the lower file stays visible.
            with contextlib.suppress(PermissionError, FileExistsError):
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))

    def _empty(self, folder: str) -> None:
        """Remove what lower layers put into a folder; what this layer brought stays, in whatever order."""
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if path not in self._fresh:
                self._remove(path)


def _set_xattrs(fd: int, headers: Mapping[str, str]) -> None:
    """Extended attributes of PAX headers (file capabilities, mostly), where the filesystem takes them."""
    for key, text in headers.items():
        if key.startswith(_XATTR):
            try:
                os.setxattr(fd, key[len(_XATTR) :], text.encode("utf-8", "surrogateescape"))
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL):
                    raise
