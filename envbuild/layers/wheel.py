"""A wheel as a plan: which byte range of it becomes which file of the image (PyPA "Binary distribution format")."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from email.policy import compat32
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from envbuild.layers.format import SITE, VENV
from envbuild.layers.inflate import Inflater, chunks, read_entry
from envbuild.layers.paths import INSTALLERS_OWN, check_name, check_place, check_tree, target
from envbuild.layers.record import hash_of, hex_of, launchers, parse_record, with_shebang, write_record
from envbuild.layers.refusal import damaged, invalid
from envbuild.layers.zip import ZipEntry, ZipReader

_GLIBC_MINOR = 36
"""Debian 12 has glibc 2.36, so manylinux_2_36 and older run."""

_SMALL = 64 << 20
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplicedFile:
    """A file whose bytes stay in the wheel: ``compressed`` bytes at ``offset``, ``size`` bytes when inflated.

    ``path`` is below ``/``; ``method`` 0 (stored) or 8 (deflate); ``hash`` RECORD's (``sha256=…``); ``sha256`` the
    content's in hex digits, which is the same one unless RECORD uses a longer hash.
    """

    path: str
    mode: int
    method: int
    offset: int
    compressed: int
    size: int
    crc: int
    hash: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A file that installing makes: a command, RECORD, INSTALLER, a script with a new first line, an empty file."""

    path: str
    mode: int
    content: bytes
    hash: str

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content)

    @property
    def sha256(self) -> str:
        """Of the content, in hex digits."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelPlan:
    """A verified wheel and the files that it becomes.

    ``wheel`` is where it lies; ``file`` its published file name; ``name`` the normalised project name;
    ``files`` are in the order in which the layer has them.
    """

    wheel: Path
    file: str
    sha256: str
    name: str
    version: str
    files: tuple[SplicedFile | WrittenFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files when installed."""
        return sum(file.size for file in self.files)

    @property
    def bytes_read(self) -> int:
        """Bytes of the wheel that its layer takes."""
        return sum(file.compressed for file in self.files if isinstance(file, SplicedFile))


def plan_wheel(path: Path, *, file: str, sha256: str) -> WheelPlan:
    """Read a wheel's directory and metadata and decide where everything goes.

    Content is verified later, while it streams (:func:`envbuild.layers.splice.write_wheel_layer`).

    Args:
        path: the wheel on disk, under whatever name.
        file: its published name, ``{name}-{version}[-{build}]-{tags}.whl``.
        sha256: what the lock says of it (hex); part of the plan, not computed again here.

    Raises:
        EnvbuildError: exit 3 if this is no wheel for this image, 5 if it is damaged or hostile.
    """
    name, version = _parse_file_name(file)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise invalid(file, "wheel-unreadable", f"cannot be opened: {error.strerror}") from None
    try:
        size = os.fstat(fd).st_size
        entries = ZipReader(fd, size, file).entries()
        for entry in entries:
            check_name(file, entry.name)
        check_tree(file, (entry.name for entry in entries))
        total = sum(entry.size for entry in entries)
        if total > 200 * size + (64 << 20):
            raise damaged(file, "wheel-bomb", f"{size} bytes would inflate to {total}")
        files = _Planner(fd, file, name, version, entries).files()
    finally:
        os.close(fd)
    check_tree(file, (planned.path for planned in files))
    return WheelPlan(
        wheel=path, file=file, sha256=sha256, name=name, version=str(version), files=tuple(files)
    )


def _parse_file_name(file: str) -> tuple[str, Version]:
    try:
        name, version, _, tags = parse_wheel_filename(file)
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise invalid(file, "wheel-file-name", f"not a wheel's file name: {error}") from None
    if tags.isdisjoint(supported_tags()):
        text = "made for another Python or platform; the image has CPython 3.11 on linux x86_64, glibc 2.36"
        raise invalid(file, "wheel-platform", text)
    return name, version


@functools.cache
def supported_tags() -> frozenset[Tag]:
    """The tags that the image's interpreter takes (PyPA "Platform compatibility tags")."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(_GLIBC_MINOR, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    python = (3, 11)
    return frozenset(cpython_tags(python, abis=["cp311"], platforms=platforms)) | frozenset(
        compatible_tags(python, interpreter="cp311", platforms=platforms)
    )


class _Planner:
    """One wheel while it is planned."""

    def __init__(self, fd: int, file: str, name: str, version: Version, entries: Sequence[ZipEntry]) -> None:
        self._fd = fd
        self._file = file
        self._name = name
        self._version = version
        self._entries = {entry.name: entry for entry in entries if not entry.is_dir}
        self._dist_info = self._find_dist_info()
        self._data_dir = self._dist_info.removesuffix(".dist-info") + ".data"
        self._record = self._read_record()
        self._distribution = self._check_metadata()

    def files(self) -> list[SplicedFile | WrittenFile]:
        """Every file of the image, in the wheel's order; what installing makes comes last."""
        files = [self._place(entry) for entry in self._entries.values() if self._installs(entry.name)]
        entry_points = f"{self._dist_info}/entry_points.txt"
        if entry_points in self._entries:
            for name, content in sorted(launchers(self._file, self._read(entry_points)).items()):
                path = f"{VENV}/bin/{name}"
                check_name(self._file, name)
                check_place(self._file, path, f"the command {name!r}")
                files.append(_written(path, content, mode=0o755))
        files.append(_written(f"{SITE}/{self._dist_info}/INSTALLER", b"envbuild\n"))
        record = f"{SITE}/{self._dist_info}/RECORD"
        rows = [(file.path, file.hash, file.size) for file in files]
        files.append(_written(record, write_record(rows, own=record)))
        return files

    def _installs(self, name: str) -> bool:
        """Byte code that a wheel brings, and what only an installer may write, stay out."""
        folder, _, base = name.rpartition("/")
        return "__pycache__" not in folder.split("/") and not (
            folder == self._dist_info and base in INSTALLERS_OWN
        )

    def _read(self, name: str, *, recorded: bool = True) -> bytes:
        hash = self._record[name][0] if recorded else None
        return read_entry(self._fd, self._file, self._entries[name], hash=hash, limit=_SMALL)

    def _find_dist_info(self) -> str:
        found = sorted({name.partition("/")[0] for name in self._entries if ".dist-info/" in name})
        found = [name for name in found if name.endswith(".dist-info")]
        if len(found) != 1:
            shown = ", ".join(found) or "none"
            raise invalid(
                self._file, "wheel-dist-info", f"a wheel has one .dist-info folder; this has: {shown}"
            )
        name, _, version = found[0].removesuffix(".dist-info").partition("-")
        if not self._is_this(name, version):
            raise invalid(
                self._file, "wheel-identity", f"its folder {found[0]} is of another project or version"
            )
        for wanted in ("METADATA", "WHEEL", "RECORD"):
            if f"{found[0]}/{wanted}" not in self._entries:
                raise invalid(self._file, "wheel-dist-info", f"it has no {found[0]}/{wanted}")
        return found[0]

    def _is_this(self, name: str, version: str) -> bool:
        try:
            return canonicalize_name(name) == self._name and Version(version) == self._version
        except InvalidVersion:
            return False

    def _read_record(self) -> Mapping[str, tuple[str, str]]:
        own = f"{self._dist_info}/RECORD"
        content = read_entry(self._fd, self._file, self._entries[own], hash=None, limit=_SMALL)
        rows = parse_record(self._file, content)
        unhashed = {f"{self._dist_info}/{name}" for name in ("RECORD", *_SIGNATURES)}
        for name, entry in self._entries.items():
            if name in unhashed:
                continue
            hash, size = rows.get(name, ("", ""))
            if not hash:
                raise damaged(self._file, "wheel-unrecorded", f"RECORD has no hash for {name!r}")
            if size and size != str(entry.size):
                text = f"RECORD promises {size} bytes for {name!r}, the zip directory {entry.size}"
                raise damaged(self._file, "wheel-size", text)
        for name in rows:
            if name not in self._entries and name not in unhashed and "__pycache__" not in name:
                raise damaged(
                    self._file, "wheel-record-missing", f"RECORD names {name!r}, which is not there"
                )
        return rows

    def _check_metadata(self) -> str:
        """Compare WHEEL and METADATA with the file name; return the project's name as it spells it."""
        parser = HeaderParser(policy=compat32)
        try:
            wheel = parser.parsestr(self._read(f"{self._dist_info}/WHEEL").decode())
            metadata = parser.parsestr(self._read(f"{self._dist_info}/METADATA").decode())
        except UnicodeDecodeError:
            raise invalid(self._file, "wheel-metadata", "WHEEL or METADATA is not UTF-8") from None
        spec = wheel.get("Wheel-Version", "")
        if spec.partition(".")[0].strip() != "1":
            raise invalid(self._file, "wheel-version", f"Wheel-Version is {spec!r}; envbuild knows 1.x")
        names, versions = metadata.get_all("Name", []), metadata.get_all("Version", [])
        if len(names) != 1 or len(versions) != 1 or not self._is_this(names[0], versions[0]):
            text = f"METADATA says {' '.join([*names, *versions]) or 'nothing'}, the file name says otherwise"
            raise invalid(self._file, "wheel-identity", text)
        return str(names[0])

    def _place(self, entry: ZipEntry) -> SplicedFile | WrittenFile:
        path = target(self._file, entry.name, data_dir=self._data_dir, distribution=self._distribution)
        mode = 0o755 if entry.executable else 0o644
        hash = self._record[entry.name][0]
        if entry.size == 0:
            self._read(entry.name)
            return WrittenFile(path=path, mode=mode, content=b"", hash=hash)
        if entry.name.startswith(f"{self._data_dir}/scripts/") and self._begins(entry) == b"#!python":
            return _written(path, with_shebang(self._read(entry.name)), mode=mode)
        return SplicedFile(
            path=path, mode=mode, method=entry.method, offset=entry.offset, compressed=entry.compressed,
            size=entry.size, crc=entry.crc, hash=hash, sha256=self._sha256(entry, hash),
        )  # fmt: skip

    def _sha256(self, entry: ZipEntry, hash: str) -> str:
        """The content's sha256 in hex digits: RECORD's, or found by reading where RECORD uses another hash."""
        if hash.startswith("sha256="):
            recorded = hex_of(hash)
            if recorded is None:
                raise damaged(self._file, "wheel-record-hash", f"{entry.name}: {hash!r} cannot be a sha256")
            return recorded
        hasher = hashlib.sha256()
        stream = Inflater(
            self._file, entry.name, method=entry.method, size=entry.size, crc=entry.crc, hash=hash
        )
        for data in chunks(self._fd, self._file, entry.offset, entry.compressed):
            for plain in stream.feed(data):
                hasher.update(plain)
        stream.finish()
        return hasher.hexdigest()

    def _begins(self, entry: ZipEntry) -> bytes:
        """An entry's first bytes, not verified: they only decide how it is read."""
        stream = Inflater(
            self._file, entry.name, method=entry.method, size=entry.size, crc=entry.crc, hash=None
        )
        for data in chunks(self._fd, self._file, entry.offset, entry.compressed):
            for plain in stream.feed(data):
                return plain[:8]
        return b""


def _written(path: str, content: bytes, *, mode: int = 0o644) -> WrittenFile:
    return WrittenFile(path=path, mode=mode, content=content, hash=hash_of(content))
