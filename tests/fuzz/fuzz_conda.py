"""Readers of what comes from conda's world: channels, records, locks, configuration, packages."""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from pathlib import Path
from random import Random

import zstandard
from fuzz_engine import Reader, Source
from fuzz_mutation import Make, bytes_changed, bytes_of, either, json_of, packed, text_of
from fuzz_python import tar_bytes

from envbuild.environment.contents import Damaged, Hostile, brought
from envbuild.lock.conda.channels import CondaChannels
from envbuild.lock.conda.check import _consistent
from envbuild.lock.conda.condarc import read_condarc
from envbuild.lock.conda.file import parse_conda_lock
from envbuild.lock.conda.folder import readable
from envbuild.lock.conda.model import CondaPackage
from envbuild.lock.conda.records import to_record
from envbuild.lock.conda.solve import Question, Solver, Unsolvable

SHA256 = "ab" * 32


def _package(name: str, version: str, build: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "version": version,
        "build": build,
        "build_number": 0,
        "subdir": "linux-64",
        "file": f"{name}-{version}-{build}.conda",
        "size": 9,
        "sha256": SHA256,
        "channel": "small",
        "md5": "ab" * 16,
        **more,
    }


LOCK = {
    "format": 1,
    "ref": {"name": "small", "tag": "v1"},
    "recipe": {"scope": "interpreter"},
    "platform": "linux-64",
    "channels": [{"name": "small", "url": "https://conda.invalid/small/"}],
    "virtual": {"__glibc": "2.28", "__archspec": "1=x86_64"},
    "exclude_newer": "2026-01-01T00:00:00Z",
    "specs": ["python 3.11.*"],
    "packages": [
        _package("libsmall", "1.2.3", "h2_1", constrains=["__cuda >=12"], timestamp=1_577_836_800_000),
        _package(
            "python",
            "3.11.2",
            "h1_0_cpython",
            depends=["libsmall >=1.0", "__glibc >=2.17,<3.0.a0"],
            license="Python-2.0",
            noarch=None,
            python_site_packages_path="lib/python3.11/site-packages",
            track_features=["x"],
        ),
    ],
    "pip": [
        {
            "kind": "sdist",
            "name": "deepspeed",
            "version": "0.19.8",
            "file": "deepspeed-0.19.8.tar.gz",
            "size": 1,
            "sha256": SHA256,
            "index": "python",
        }
    ],
}
REPODATA = {
    "info": {"subdir": "linux-64", "base_url": "https://conda.invalid/small/linux-64/"},
    "packages": {},
    "packages.conda": {
        "python-3.11.2-h1_0.conda": {
            "name": "python",
            "version": "3.11.2",
            "build": "h1_0",
            "build_number": 0,
            "subdir": "linux-64",
            "depends": ["libsmall >=1.0"],
            "constrains": ["__cuda >=12"],
            "sha256": SHA256,
            "md5": "ab" * 16,
            "size": 9,
            "timestamp": 1_577_836_800_000,
            "license": "MIT",
            "track_features": "x",
        },
        "libsmall-1.2.3-h2_1.conda": {
            "name": "libsmall",
            "version": "1.2.3",
            "build": "h2_1",
            "build_number": 1,
            "subdir": "linux-64",
            "depends": [],
            "sha256": SHA256,
            "size": 9,
            "noarch": "generic",
        },
    },
}
EMPTY = b'{"info":{"subdir":"noarch"},"packages":{},"packages.conda":{}}'
CONDARC = (
    "channel_alias: https://h.invalid/conda\ncustom_channels:\n  small: https://m.invalid/c\nssl_verify: false\n"
    "proxy_servers:\n  http: http://user:pw@proxy.invalid:3128\n  https: &a http://proxy.invalid\nchannels: [a, *a]\n"
)
_SOURCE = Source()
_ZST = zstandard.ZstdCompressor(level=1)


def _lock(data: bytes) -> None:
    """The lock, and what is made of it at once: records for py-rattler, and whether it is consistent."""
    lock = parse_conda_lock(data, Path("small/v1/conda.lock.json"))
    for package in lock.packages:
        to_record(lock, package)
    list(_consistent(lock))


class _Channel:
    """A folder as a channel; its solver asks in one event loop, so that an input costs no thread of its own."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def _made(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="fuzz-channel-"))
            (self._folder / "noarch").mkdir()
            (self._folder / "linux-64").mkdir()
            (self._folder / "noarch/repodata.json").write_bytes(EMPTY)
        return self._folder

    def solve(self, data: bytes) -> None:
        folder = self._made()
        (folder / "linux-64/repodata.json").write_bytes(data)
        channels = CondaChannels(places={"small": folder.as_uri() + "/"})
        solver = Solver(channels, folder / "cache")
        question = Question(
            channels=("small",),
            specs=("python 3.11.*",),
            virtual={"__glibc": "2.28"},
            before="2026-01-01T23:59:59Z",
        )
        try:
            solver.solve(question)
        except Unsolvable:
            solver.records(["small"], "python")
        shutil.rmtree(folder / "cache", ignore_errors=True)

    def unpack(self, data: bytes) -> None:
        folder = self._made() / "packed"
        for subdir in ("linux-64", "noarch"):
            (folder / subdir).mkdir(parents=True, exist_ok=True)
            (folder / subdir / "repodata.json.zst").write_bytes(data)
        readable(folder.as_uri() + "/", folder / "cache")
        shutil.rmtree(folder / "cache", ignore_errors=True)


def _condarc(data: bytes) -> None:
    read = read_condarc({"CONDARC": str(_SOURCE(data))})
    read.place("small")
    read.client_config()


PATHS = {
    "paths_version": 1,
    "paths": [
        {"_path": "site-packages/a.py", "path_type": "hardlink", "sha256": SHA256, "size_in_bytes": 1},
        {
            "_path": "bin/b",
            "path_type": "softlink",
            "sha256": SHA256,
            "prefix_placeholder": "/x",
            "file_mode": "text",
        },
        {"_path": "share", "path_type": "directory"},
    ],
}
LINK = {"noarch": {"type": "python", "entry_points": ["a = b:c"]}, "package_metadata_version": 1}


def _conda(info: bytes) -> bytes:
    """A package around the tar of its information."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as container:
        container.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        container.writestr("info-demo-1-0.tar.zst", _ZST.compress(info))
    return out.getvalue()


def _packages() -> Make:
    paths, link = json_of(PATHS), json_of(LINK)

    def made(rng: Random) -> bytes:
        files = {"info/paths.json": paths(rng), "info/link.json": link(rng) if rng.random() < 0.5 else b"{}"}
        info = tar_bytes(files)
        return _conda(bytes_changed(rng, info) if rng.random() < 0.3 else info)

    sound = _conda(tar_bytes({"info/paths.json": paths.seeds[0], "info/link.json": link.seeds[0]}))
    return either(Make(made, sound), bytes_of(sound))


def _brought(data: bytes) -> None:
    """What a package brings, in either form; its file is what the lock names."""
    package = CondaPackage(
        name="demo",
        version="1",
        build="0",
        build_number=0,
        subdir="noarch",
        noarch="python",
        channel="small",
        file="demo-1-0.tar.bz2" if data[:2] == b"BZ" else "demo-1-0.conda",
        size=1,
        sha256=SHA256,
    )
    brought(package, _SOURCE(data), "lib/python3.11/site-packages")


_CHANNEL = _Channel()

READERS = [
    Reader(name="conda-lock", make=json_of(LOCK), read=_lock),
    Reader(name="conda-repodata", make=json_of(REPODATA), read=_CHANNEL.solve),
    Reader(
        name="conda-repodata-zst",
        make=packed(json_of(REPODATA), _ZST.compress, seldom=0.7),
        read=_CHANNEL.unpack,
    ),
    Reader(name="conda-package", make=_packages(), read=_brought, answers=(Damaged, Hostile)),
    Reader(
        name="condarc",
        make=text_of(
            CONDARC,
            more=(
                "&b",
                "*b",
                "!!python/object:os.system",
                "- ",
                ": ",
                "${HOME}",
                "{{",
                "? ",
                "0o7",
                "2026-99-99",
            ),
        ),
        read=_condarc,
    ),
]
