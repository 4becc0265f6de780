"""The licences of artifacts, read from the files themselves: wheels' METADATA, sdists' PKG-INFO, Debian's copyright.

What is read depends on the file alone: from whichever place it is read, and beside whichever others, it is the same.
"""

from __future__ import annotations

import gzip
import os
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from envbuild.layers.debian_copyright import copyright_expression
from envbuild.layers.debs import DEB_FAULTS, damaged, data_tar
from envbuild.layers.licence_names import all_of, one_line, short_text, spdx_expression, spdx_id
from envbuild.layers.refusal import damaged as damaged_wheel
from envbuild.lock.licences import artifacts_of, with_licences
from envbuild.lock.model import Artifact, Lock
from envbuild.lock.python.files import ZIP_FAULTS
from envbuild.oci.tar_reader import entries
from envbuild.oci.trees import folder_below
from envbuild.progress import Progress
from envbuild.sandbox.unpack import root_name
from envbuild.store import Store

REVISION = 1
"""Part of the records' keys: a change in what is read of a file needs a new one."""

_DOC = "usr/share/doc"
_LIMIT = 4 << 20
_LICENCE = "License :: "


def add_licences(lock: Lock, store: Store, progress: Progress) -> Lock:
    """The lock with the licences that it lacks, as far as the store has the artifacts; nothing else of it changes.

    Raises:
        EnvbuildError: as :func:`licences_of`.
    """
    lacking = [item for item in artifacts_of(lock) if item.licence is None]
    if not lacking:
        return lock
    layers = lock.image.layers if lock.image else ()
    bases = [store.roots / root_name([layer.diff_id]) for layer in layers if layer.name == "base"]
    return with_licences(lock, licences_of(lacking, store, progress, base=bases[0] if bases else None))


def licences_of(
    artifacts: Iterable[Artifact], store: Store, progress: Progress, *, base: Path | None = None
) -> Mapping[str, str]:
    """What artifacts say of their licences: by sha256, an SPDX expression where one is known, else a short text.

    An artifact that the store has not is left out, and so is one that says nothing. What was read is remembered in the
    store, by the artifact's sha256.

    Args:
        artifacts: what to look at.
        store: has the files.
        progress: gets one task, where there is anything to read.
        base: the unpacked base, where it is there: a hundred copyright files are read in it at once, and in the
            packages one after the other, since each has to be decompressed up to its copyright (0.1 s, and 12 s).

    Raises:
        EnvbuildError: exit 5, a wheel or a package is damaged.
    """
    wanted = {item.sha256: item for item in artifacts}
    found: dict[str, str] = {}
    unread = []
    for sha256, item in wanted.items():
        record = store.record("licence", _key(sha256)) or {}
        text = record.get("licence")
        if isinstance(text, str) and (known := one_line(text)):
            found[sha256] = known
        elif store.has(sha256, item.size):
            unread.append(item)
    if not unread:
        return found
    with progress.task("read licences", total=len(unread), unit="packages") as task:
        debian = _Copyrights(wanted.values(), store, base)
        for item in unread:
            text = debian.licence(item) if item.kind == "deb" else _of_python(item, store)
            if text is not None:
                found[item.sha256] = text
                store.put_record("licence", _key(item.sha256), {"of": item.sha256, "licence": text})
            task.advance(1)
    return found


def _key(sha256: str) -> str:
    return f"{sha256}-{REVISION}"


def metadata_licence(metadata: Message) -> str | None:
    """The licence in a project's core metadata.

    ``License-Expression`` (PEP 639) goes before ``License`` where that is a name and no text, and that before the
    classifiers; a name that SPDX has decides over one that it has not.
    """
    expression = metadata["License-Expression"]
    if expression is not None:
        return spdx_expression(str(expression)) or short_text(str(expression))
    free = str(metadata["License"] or "")
    first = free.strip().splitlines()[0] if free.strip() else ""
    known = spdx_id(first) or spdx_expression(first)
    if known:
        return known
    texts = [str(text) for text in metadata.get_all("Classifier", [])]
    ends = [text.rpartition(" :: ")[2] for text in texts if text.startswith(_LICENCE)]
    named = [name for name in map(spdx_id, ends) if name]
    if named and len(named) == len(ends):
        return all_of(named)
    return short_text(free) or short_text(", ".join(ends))


def _of_python(item: Artifact, store: Store) -> str | None:
    """A wheel's or sdist's licence, by its metadata."""
    path = store.artifact(item.sha256)
    try:
        content = _sdist_metadata(path) if item.kind == "sdist" else _wheel_metadata(path)
    except (tarfile.TarError, *ZIP_FAULTS) as error:
        raise damaged_wheel(
            item.basename, "wheel-metadata", f"its metadata cannot be read: {error}"
        ) from None
    return metadata_licence(HeaderParser().parsestr(content.decode("utf-8", "replace")))


def _wheel_metadata(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".dist-info/METADATA") and name.count("/") == 1:
                with archive.open(name) as content:
                    return content.read(_LIMIT)
    raise KeyError("it has no METADATA")


def _sdist_metadata(path: Path) -> bytes:
    with gzip.open(path) as stream:
        for member, content in entries(stream):
            if member.name.count("/") == 1 and member.name.endswith("/PKG-INFO") and content is not None:
                return content.read(_LIMIT)
    raise KeyError("it has no PKG-INFO")


class _Copyrights:
    """The copyright files of Debian packages, each read once.

    A package's documentation folder, or the file in it, may be a link to that of another package of the same source
    (Debian Policy, 12.3), which then is among the packages too.
    """

    def __init__(self, artifacts: Iterable[Artifact], store: Store, base: Path | None) -> None:
        self._debs = {item.name: item for item in artifacts if item.kind == "deb"}
        self._store = store
        self._base = base
        self._read: dict[str, str | None] = {}

    def licence(self, item: Artifact) -> str | None:
        """The licence of one package; ``None`` where its copyright file cannot be had."""
        text = self._text(item.name, ())
        return None if text is None else copyright_expression(text, item.name)

    def _text(self, name: str, followed: tuple[str, ...]) -> str | None:
        """The text that the package has or links to."""
        if name in self._read:
            return self._read[name]
        text, link = self._in_base(name)
        item = self._debs.get(name)
        if text is None and link is None and item and self._store.has(item.sha256, item.size):
            text, link = _in_package(item, self._store.artifact(item.sha256))
        if link is not None and link not in followed:
            text = self._text(link, (*followed, name))
        self._read[name] = text
        return text

    def _in_base(self, name: str) -> tuple[str | None, str | None]:
        if self._base is None or name.startswith(".") or "/" in name:
            return None, None
        with suppress(OSError), folder_below(self._base, _DOC) as docs:
            if (link := _link(name, docs)) is not None:
                return None, _package(f"{_DOC}/{name}", link)
            with folder_below(name, above=docs) as folder:
                if (link := _link("copyright", folder)) is not None:
                    return None, _package(f"{_DOC}/{name}/copyright", link)
                fd = os.open("copyright", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                with os.fdopen(fd, "rb") as stream:
                    if stat.S_ISREG(os.fstat(fd).st_mode):
                        return stream.read(_LIMIT).decode("utf-8", "replace"), None
        return None, None


def _link(name: str, folder: int) -> str | None:
    """The target of a link in an open folder; ``None`` if it is none."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return os.readlink(name, dir_fd=folder) if stat.S_ISLNK(found.st_mode) else None


def _in_package(item: Artifact, path: Path) -> tuple[str | None, str | None]:
    """The copyright's text, or the package that it is a link to."""
    folder = f"{_DOC}/{item.name}"
    try:
        with data_tar(path) as stream:
            for entry, content in entries(stream):
                name = entry.name.removeprefix("./").rstrip("/")
                if name not in (folder, f"{folder}/copyright"):
                    continue
                if entry.issym():
                    return None, _package(name, entry.linkname)
                if content is not None:
                    return content.read(_LIMIT).decode("utf-8", "replace"), None
    except DEB_FAULTS as error:
        raise damaged(item.basename, str(error)) from error
    return None, None


def _package(place: str, target: str) -> str | None:
    """The package whose documentation a link leads to."""
    parts = posixpath.normpath(posixpath.join("/", posixpath.dirname(place), target)).split("/")
    names = [name for name in parts if name and name != "copyright"]
    return names[-1] if names else None
