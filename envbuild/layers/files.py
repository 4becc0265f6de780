"""Small layers made of given content: the virtual environment's frame, links, folders, users' files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from envbuild.layers.format import PYTHON, SITE, VENV
from envbuild.layers.gzip import StoredMember
from envbuild.layers.tar import END, Kind, header, padding
from envbuild.oci import digest as digests
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One member of a layer.

    ``path`` is below ``/`` without a slash at either end; ``content`` a file's bytes; ``link`` a symlink's
    target; ``mode`` permission bits; ``uid`` and ``gid`` the owner's numbers.
    """

    path: str
    kind: Kind = "file"
    content: bytes = b""
    link: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not all(parts) or "." in parts or ".." in parts:
            raise ValueError(f"not a clean path below /: {self.path!r}")
        if (self.kind == "symlink") != bool(self.link) or (self.kind != "file" and self.content):
            raise ValueError(f"{self.path}: a symlink has a target, only a file has content")


def folder(path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> FileEntry:
    """A directory."""
    return FileEntry(path=path, kind="dir", mode=mode, uid=uid, gid=gid)


def symlink(path: str, link: str) -> FileEntry:
    """A symbolic link to ``link``."""
    return FileEntry(path=path, kind="symlink", link=link, mode=0o777)


def whiteout(path: str) -> FileEntry:
    """What hides ``path`` of the layers below (OCI image spec, layer.md, "Whiteouts")."""
    folder, slash, name = path.rpartition("/")
    return FileEntry(path=f"{folder}{slash}.wh.{name}")


def files_tar(files: Sequence[FileEntry]) -> Iterator[bytes]:
    """The plain tar of ``files``, sorted by path; missing parents come first, root's, mode 0755.

    Raises:
        ValueError: a path twice, or below something that is no directory.
    """
    entries = {entry.path: entry for entry in files}
    if len(entries) != len(files):
        raise ValueError("a path is there twice")
    for path in list(entries):
        while path := path.rpartition("/")[0]:
            if entries.setdefault(path, folder(path)).kind != "dir":
                raise ValueError(f"{path} is no directory")
    for path in sorted(entries, key=lambda path: path.split("/")):
        entry = entries[path]
        yield header(
            path,
            entry.kind,
            mode=entry.mode,
            size=len(entry.content),
            link=entry.link,
            uid=entry.uid,
            gid=entry.gid,
        )
        yield entry.content + padding(len(entry.content))
    yield END


def files_diff_id(files: Sequence[FileEntry]) -> str:
    """The digest of the plain tar that :func:`write_files_layer` writes."""
    return digests.of_bytes(b"".join(files_tar(files)))


def write_files_layer(name: str, files: Sequence[FileEntry], layout: Layout) -> Layer:
    """Write a layer of ``files`` into ``layout``; gzip with stored blocks, so that the bytes are always the same.

    Args:
        name: the layer's name for people.
        files: in any order. Parents that are missing become root's with mode 0755, which overlays what a lower
            layer says of them: give ``tmp`` and the like explicitly.
        layout: where the blob goes.

    Raises:
        EnvbuildError: the store cannot be written.
        ValueError: the files contradict each other.
    """
    tar = b"".join(files_tar(files))
    member = StoredMember()
    with layout.writer() as blob:
        for chunk in (*member.feed(tar), *member.finish()):
            blob.write(chunk)
    return Layer(name=name, digest=blob.digest, diff_id=digests.of_bytes(tar), size=blob.size)


def venv_entries(version: str) -> list[FileEntry]:
    """What ``python3.11 -m venv --without-pip /opt/venv`` makes, without the activation scripts.

    Args:
        version: the base's interpreter (``3.11.2``), which ``pyvenv.cfg`` records.
    """
    python = f"/usr/bin/{PYTHON}"
    config = (
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\nexecutable = {python}\n"
        f"command = {python} -m venv --without-pip /{VENV}\n"
    )
    return [
        FileEntry(path=f"{VENV}/pyvenv.cfg", content=config.encode()),
        symlink(f"{VENV}/bin/{PYTHON}", python),
        symlink(f"{VENV}/bin/python", PYTHON),
        symlink(f"{VENV}/bin/python3", PYTHON),
        symlink(f"{VENV}/lib64", "lib"),
        folder(f"{VENV}/include/{PYTHON}"),
        folder(SITE),
    ]
