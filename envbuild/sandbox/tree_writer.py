"""Writes tar entries below a folder, and nowhere else. It works inside of that folder (:mod:`.inside`).

Parents are resolved as in a chroot: a symbolic link that a layer brings is followed inside the root only (OCI
image spec, layer.md, "Applying Changesets"). Whiteouts remove what lower layers brought.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Mapping

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.tar_reader import Content
from envbuild.oci.trees import remove_tree, too_long

_COPY = 1 << 20
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_LINKS = 40
_XATTR = "SCHILY.xattr."
_LARGEST_XATTR = 64 << 10
_OVERLAY = ("trusted.overlay.", "user.overlay.")
"""overlayfs's own attributes: they mean something only where they were written."""

_UNMAKEABLE = {
    errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.EMLINK, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOTDIR, errno.EPERM, errno.ERANGE, errno.E2BIG, errno.EOVERFLOW,
}  # fmt: skip
"""What the kernel says of an entry that no file can be made of, and not of the disk."""


def refuse(name: str, reason: str) -> EnvbuildError:
    """A tar entry that must not be unpacked."""
    return EnvbuildError(
        "layer-hostile",
        f"the layer has an entry that {reason}: {name[:300]!r}",
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
        self._folders: dict[str, tuple[int, float, int]] = {root: (0o755, 0.0, os.lstat(root).st_ino)}
        self._fresh: set[str] = set()
        self._holding: set[str] = set()
        self.entries = 0

    def start_layer(self) -> None:
        """Forget what the layer below brought: whiteouts of the next one hide all of it."""
        self._fresh, self._holding = set(), set()

    def add(self, entry: tarfile.TarInfo, content: Content | None) -> None:
        """Make one entry; ``content`` is its data if it is a regular file.

        Raises:
            EnvbuildError: exit 5; the entry's name or link leads out of the root.
        """
        self.entries += 1
        try:
            self._add(entry, content)
        except OSError as error:
            if error.errno not in _UNMAKEABLE:
                raise
            raise refuse(entry.name, f"cannot be made: {error.strerror}") from error

    def _add(self, entry: tarfile.TarInfo, content: Content | None) -> None:
        parent, name = self._split(entry.name)
        if name.startswith(_WHITEOUT):
            self._whiteout(entry, parent, name)
        elif not name:
            if not entry.isdir():
                raise refuse(entry.name, "stands in place of the root")
            self._note_folder(self._root, entry)
            os.chown(self._root, entry.uid, entry.gid)
        else:
            path = os.path.join(parent, name)
            self._fresh.add(path)
            while (
                parent not in self._holding
            ):  # also a folder without an entry of its own stays for what is in it
                self._holding.add(parent)
                parent = os.path.dirname(parent)
            self._make(entry, path, content)

    def finish(self) -> None:
        """Give folders their modes and times, deepest first (writing into them changed both)."""
        for path in sorted(self._folders, key=len, reverse=True):
            mode, mtime, inode = self._folders[path]
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found = os.lstat(path)
                if stat.S_ISDIR(found.st_mode) and found.st_ino == inode:  # else a later entry replaced it
                    os.chmod(path, mode)
                    os.utime(path, (mtime, mtime))

    def _note_folder(self, path: str, entry: tarfile.TarInfo) -> None:
        self._folders[path] = (entry.mode & 0o7777, entry.mtime, os.lstat(path).st_ino)

    def _split(self, name: str) -> tuple[str, str]:
        """The real folder and the last part of an entry's name."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in name:
            raise refuse(name, "leads out of its folder")
        if any(part.startswith(_WHITEOUT) for part in parts[:-1]):
            raise refuse(name, "lies in a whiteout")
        if not parts:
            return self._root, ""
        folder = self._folder("/".join(parts[:-1]))
        if reason := too_long(os.path.join(folder, parts[-1]).removeprefix(self._root).lstrip("/")):
            raise refuse(name, reason)
        return folder, parts[-1]

    def _folder(self, relative: str) -> str:
        """The real path of a folder inside the root, made if it is missing."""
        known = self._real.get(relative)
        if known is not None:
            return known
        if reason := too_long(relative):
            raise refuse(relative, reason)
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
            if self._overlaid and stat.S_ISCHR(mode):
                self._replace_whiteout(inner, 0o755)
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
            if reason := too_long(path.removeprefix(self._root).lstrip("/")):
                raise refuse(relative, reason)
        self._real[relative] = path
        return path

    def _make(self, entry: tarfile.TarInfo, path: str, content: Content | None) -> None:
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
            if stat.S_ISDIR(os.lstat(source).st_mode):
                raise refuse(entry.name, f"is a hard link to {entry.linkname!r}, a folder")
            os.link(source, path, follow_symlinks=False)
        elif entry.issym():
            if not entry.linkname or "\0" in entry.linkname:
                raise refuse(entry.name, "is a symbolic link without a target that a link can have")
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
            mode = os.lstat(path).st_mode
            if self._overlaid and stat.S_ISCHR(mode):
                self._replace_whiteout(path, 0o700)
            elif not stat.S_ISDIR(mode):
                self._remove(path)
                os.mkdir(path, 0o700)
        os.chown(path, entry.uid, entry.gid)
        os.chmod(path, 0o700)
        self._note_folder(path, entry)

    def _make_file(self, entry: tarfile.TarInfo, path: str, content: Content) -> None:
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
            remove_tree(path)
        else:
            os.unlink(path)
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            self._real = {"": self._root}

    def _whiteout(self, entry: tarfile.TarInfo, parent: str, name: str) -> None:
        """A whiteout names one file or folder beside it, or is the opaque one (layer.md, "Whiteouts").

        No file can have a name that begins like a whiteout, so the names that aufs kept for itself hide nothing.
        """
        hidden = name.removeprefix(_WHITEOUT)
        if not (entry.isreg() or entry.islnk()) or entry.size:
            raise refuse(entry.name, "is a whiteout, and no empty file")
        if name == _OPAQUE:
            if self._overlaid and parent == self._root:
                raise refuse(entry.name, "hides the whole root, which a layer in a stack cannot")
            self._empty(parent)
        elif hidden in ("", ".", "..") or hidden.startswith(_WHITEOUT):
            raise refuse(entry.name, "is a whiteout of a name that no file has")
        else:
            self._hide(os.path.join(parent, hidden))

    def _hide(self, path: str) -> None:
        """Apply a whiteout. For overlayfs it is a character device 0:0 (Linux, filesystems/overlayfs, "whiteouts")."""
        if self._overlaid:
            try:
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))
            except FileExistsError:
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    _make_opaque(path)
            except PermissionError:
                pass  # a user namespace may make this one device since Linux 5.8; before, the lower file stays visible
        else:
            self._hide_lower(path)

    def _replace_whiteout(self, path: str, mode: int) -> None:
        """A folder in place of what a whiteout hides: nothing of the lower one is to be seen in it."""
        os.unlink(path)
        os.mkdir(path, mode)
        _make_opaque(path)

    def _empty(self, folder: str) -> None:
        """Hide what lower layers put into a folder; what this layer brought stays, in whatever order."""
        if self._overlaid:
            _make_opaque(folder)
            return
        for name in os.listdir(folder):
            self._hide_lower(os.path.join(folder, name))

    def _hide_lower(self, path: str) -> None:
        if path not in self._fresh and path not in self._holding:
            self._remove(path)
        elif os.path.isdir(path) and not os.path.islink(path):
            self._empty(path)


def _make_opaque(folder: str) -> None:
    """Have overlayfs show nothing of the folders below this one (Linux, filesystems/overlayfs, "whiteouts")."""
    try:
        os.setxattr(folder, "trusted.overlay.opaque", b"y")
    except PermissionError:  # in a user namespace, where overlays are mounted with userxattr
        with contextlib.suppress(OSError):
            os.setxattr(folder, "user.overlay.opaque", b"y")


def _set_xattrs(fd: int, headers: Mapping[str, str]) -> None:
    """Extended attributes of PAX headers (file capabilities, mostly), where the filesystem takes them."""
    for key, text in headers.items():
        name = key.removeprefix(_XATTR)
        if name != key and not name.startswith(_OVERLAY):
            value = text.encode("utf-8", "surrogateescape")
            if not name or "\0" in name or len(value) > _LARGEST_XATTR:
                raise OSError(errno.ERANGE, f"the extended attribute {name[:40]!r} of {len(value)} bytes")
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL):
                    raise
