"""What conda keeps about an environment in ``conda-meta``, written so that it depends on the lock alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from envbuild.lock import CondaLock, CondaPackage

META = "conda-meta"
_LOCAL = ("extracted_package_dir", "package_tarball_full_path", "link")
"""Keys that tell where this machine unpacked a package, and how its files were linked. conda needs none of them."""
_FROM_PACKAGE = ("hardlink", "softlink")


def record_path(prefix: Path, package: CondaPackage) -> Path:
    """The package's record in a prefix."""
    return prefix / META / f"{package.name}-{package.version}-{package.build}.json"


def sources_of(lock: CondaLock, prefix: Path) -> dict[str, list[str]]:
    """The Python sources of each package whose byte code is made at installation (``noarch: python``), by name."""
    found = {}
    for package in lock.packages:
        if package.noarch == "python":
            record = json.loads(record_path(prefix, package).read_bytes())
            found[package.name] = [name for name in record["files"] if name.endswith(".py")]
    return found


def write_records(lock: CondaLock, prefix: Path, compiled: Mapping[str, list[str]]) -> set[str]:
    """Rewrite py-rattler's records: addresses as in the lock, nothing of this machine, byte code that was made.

    Args:
        lock: the environment's lock.
        prefix: where it is.
        compiled: byte code files by package name.

    Returns:
        the files that came from packages as they are there, with the packages' own times.
    """
    from_packages: set[str] = set()
    for package in lock.packages:
        path = record_path(prefix, package)
        record: dict[str, Any] = json.loads(path.read_bytes())
        for key in _LOCAL:
            record.pop(key, None)
        channel = next(item for item in lock.channels if item.name == package.channel)
        record |= {"url": lock.url(package), "channel": f"{channel.url}{package.subdir}"}
        paths = record["paths_data"]["paths"]
        for entry in paths:
            _note_hash(entry)
        from_packages |= {entry["_path"] for entry in paths if entry["path_type"] in _FROM_PACKAGE}
        made = compiled.get(package.name, [])
        paths += [{"_path": name, "path_type": "pyc_file"} for name in made]
        record["files"] = sorted([*record["files"], *made])
        paths.sort(
            key=itemgetter("_path")
        )  # where two packages hold one path, py-rattler's order is that of its threads
        path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return from_packages


def _note_hash(entry: dict[str, Any]) -> None:
    """Note as conda does what a path has in the prefix, which ``conda doctor`` compares.

    py-rattler notes the hash of a symbolic link's text, and none of a file that is as its package has it.
    """
    if entry["path_type"] == "softlink":
        entry.pop("sha256_in_prefix", None)
    elif entry["path_type"] == "hardlink" and "sha256" in entry:
        entry.setdefault("sha256_in_prefix", entry["sha256"])


def write_history(lock: CondaLock, prefix: Path) -> None:
    """Write ``conda-meta/history``, by which conda knows an environment and what was asked for.

    Its time is the lock's, not the clock's.
    """
    lines = [
        f"==> {lock.exclude_newer.replace('T', ' ').removesuffix('Z')} <==",
        f"# cmd: envbuild env create {lock.ref}",
        *(
            f"+{package.channel}/{package.subdir}::{package.name}-{package.version}-{package.build}"
            for package in lock.packages
        ),
        f"# update specs: {json.dumps(list(lock.specs))}",
    ]
    (prefix / META / "history").write_text("\n".join(lines) + "\n", encoding="utf-8")


def link_scripts(prefix: Path) -> list[str]:
    """Packages with a script that conda would run after linking, by the script's file name."""
    return sorted(
        path.name.removeprefix(".").removesuffix("-post-link.sh")
        for path in (prefix / "bin").glob(".*-post-link.sh")
    )
