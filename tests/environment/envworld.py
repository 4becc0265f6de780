"""Environments made in the tests, in this process or in one of its own, and what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from condachannel import CHANNEL
from condapackage import Package
from faulty_server import FaultyServer

from envbuild.environment import Created, Means, create
from envbuild.lock import CondaLock, CondaPackage, Indexes, conda_lock_bytes, parse_conda_lock
from envbuild.lock.conda.channels import CondaChannels
from envbuild.progress import Progress, SilentProgress
from envbuild.store import Store


@dataclass(frozen=True)
class World:
    """A channel at ``channel`` and a Python index at ``index``, both of ``server``, and the locks of what they have."""

    folder: Path
    server: FaultyServer
    channel: str
    index: str
    lock: CondaLock
    whole: CondaLock

    def environ(self, **more: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PIP_CONFIG_FILE": "/dev/null",
            "ENVBUILD_PYTHON_INDEX": self.index,
            "ENVBUILD_CONDA_CHANNELS": f"small={self.channel}",
            **more,
        }

    def create(
        self,
        lock: CondaLock | None = None,
        prefix: str = "env",
        *,
        store: str = "store",
        channel: str | None = None,
        progress: Progress | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Created:
        """Make an environment in this process."""
        given = self.environ(**(environ or {}))
        if channel:
            given["ENVBUILD_CONDA_CHANNELS"] = f"small={channel}"
        with Store.open(self.folder / store) as opened:
            means = Means(
                store=opened,
                channels=CondaChannels.from_machine(given),
                indexes=Indexes.from_machine(given),
                jobs=2,
                progress=progress or SilentProgress(),
            )
            return create(lock or self.lock, self.folder / prefix, means)

    def start(
        self,
        lock: CondaLock | None = None,
        prefix: str = "env",
        *,
        store: str = "store",
        umask: int = 0o022,
        **env: str,
    ) -> subprocess.Popen[str]:
        """Start making an environment in a process of its own; it prints what :class:`Created` holds."""
        (self.folder / "the.lock.json").write_bytes(conda_lock_bytes(lock or self.lock))
        words = [str(self.folder / "the.lock.json"), str(self.folder / prefix), str(self.folder / store)]
        return subprocess.Popen(
            [sys.executable, __file__, *words],
            env={**self.environ(**env), "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=umask,
        )

    def with_package(self, package: Package, data: bytes | None = None) -> CondaLock:
        """``lock`` with one package more (or in place of the one of that name), which the server has.

        ``data``: other bytes for its file, which the lock then names.
        """
        written = package.write(self.folder / "more").read_bytes() if data is None else data
        self.server.files[f"/small/{package.subdir}/{package.file}"] = written
        item = CondaPackage(
            name=package.name, version=package.version, build=package.build, build_number=0, subdir=package.subdir,
            file=package.file, size=len(written), sha256=hashlib.sha256(written).hexdigest(), channel=CHANNEL,
            depends=package.depends, constrains=package.constrains, noarch=package.noarch,
        )  # fmt: skip
        others = [other for other in self.lock.packages if other.name != package.name]
        return replace(self.lock, packages=tuple(sorted([*others, item], key=lambda each: each.name)))

    def fetched(self) -> list[str]:
        """The packages that were asked of the server, in order."""
        return [Path(path).name for path, _ in self.server.requests if path.endswith(".conda")]


def said(program: Path, *arguments: str) -> str:
    """What a program of an environment prints, started with nothing set."""
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([program, *arguments], env=env, capture_output=True, text=True, check=True).stdout


def contents(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: kind and mode, time, and bytes or target; of the folder itself kind and mode."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        what = (
            str(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            if stat.S_ISREG(status.st_mode)
            else None
        )
        time = 0 if path == folder else status.st_mtime_ns
        found[str(path.relative_to(folder))] = (oct(status.st_mode), time, what)
    return found


def main() -> None:
    lock, prefix, store = (Path(word) for word in sys.argv[1:])
    with Store.open(store) as opened:
        means = Means(
            store=opened,
            channels=CondaChannels.from_machine(os.environ),
            indexes=Indexes.from_machine(os.environ),
            jobs=2,
            progress=SilentProgress(),
        )
        made = create(parse_conda_lock(lock.read_bytes(), lock), prefix, means)
    print(json.dumps({"bytes_fetched": made.bytes_fetched, "packages": made.packages}))


if __name__ == "__main__":
    main()
