"""conda-lock.yml, written with conda-lock's own models (the extra ``conda``)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock, CondaPackage

if TYPE_CHECKING:
    from conda_lock.lockfile.v2prelim.models import LockedDependency

SOURCE = "environment.yml"
"""What conda-lock.yml names as the file that it was made from."""

_NO_MAPPING = "no-mapping.json"
"""conda-lock's table of PyPI names, which is asked for pip's packages only: there are none, and nothing is fetched."""


def conda_lock_yml(conda: CondaLock, environment: str) -> str:
    """The lock in conda-lock's format, without comments. It holds no time, no user and nothing of the machine.

    DeepSpeed is not in it: conda-lock names what pip installs by an address on an index.

    Args:
        conda: the lock.
        environment: the text of environment.yml without its pip part; conda-lock's content hash is about it and
            about the virtual packages.

    Raises:
        EnvbuildError: exit 2, conda-lock is not installed; exit 3, a package has no md5.
    """
    try:
        from conda_lock.lockfile import write_conda_lock_file
        from conda_lock.lockfile.v2prelim.models import Lockfile, LockMeta
    except ImportError as error:
        raise EnvbuildError(
            "no-conda-lock",
            f"conda-lock.yml is written by conda-lock's own code, which is not installed ({error})",
            hint="pip install 'envbuild[conda]'",
            exit=Exit.USAGE,
        ) from error
    metadata = LockMeta(
        content_hash=_content_hash(conda, environment),
        channels=[channel.name for channel in conda.channels],
        platforms=[conda.platform],
        sources=[SOURCE],
    )
    packages = [_locked(conda, package) for package in conda.packages]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conda-lock.yml"
        lockfile = Lockfile(package=packages, metadata=metadata)
        write_conda_lock_file(lockfile, path, metadata_choices=None, include_help_text=False)
        return path.read_text(encoding="utf-8")


def _content_hash(conda: CondaLock, environment: str) -> dict[str, str]:
    """What ``conda-lock --check-input-hash`` compares, computed by conda-lock."""
    from conda_lock.content_hash import compute_content_hashes
    from conda_lock.src_parser.environment_yaml import parse_environment_file
    from conda_lock.virtual_package import virtual_package_repo_from_specification

    virtual = {name: text.replace("=", " ") for name, text in conda.virtual.items()}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / SOURCE
        source.write_text(environment, encoding="utf-8")
        machine = Path(folder) / "virtual-packages.yml"
        machine.write_text(
            yaml.safe_dump({"subdirs": {conda.platform: {"packages": virtual}}}), encoding="utf-8"
        )
        asked = parse_environment_file(source, [conda.platform], mapping_url=_NO_MAPPING)
        hashes: dict[str, str] = compute_content_hashes(
            asked, virtual_package_repo_from_specification(machine)
        )
    return hashes


def _locked(conda: CondaLock, package: CondaPackage) -> LockedDependency:
    from conda_lock.lockfile.v2prelim.models import HashModel, LockedDependency

    if package.md5 is None:
        raise EnvbuildError(
            "no-md5",
            f"{package.channel} gives {package.file} no md5, which conda-lock asks for",
            hint="use `envbuild export --format explicit`, or `envbuild env create`",
            exit=Exit.INPUT,
        )
    return LockedDependency(
        name=package.name,
        version=package.version,
        manager="conda",
        platform=conda.platform,
        dependencies=dependencies(package),
        url=conda.url(package),
        hash=HashModel(md5=package.md5, sha256=package.sha256),
        categories={"main"},
    )


def dependencies(package: CondaPackage) -> dict[str, str]:
    """What a package needs: name → version and build, of a MatchSpec ``name version build``.

    A name that is asked for twice gets both versions, as one condition.
    """
    found: dict[str, list[str]] = {}
    for spec in package.depends:
        name, _, rest = spec.strip().partition(" ")
        found.setdefault(name, []).append(rest.strip())
    return {name: _both(specs) for name, specs in found.items()}


def _both(specs: list[str]) -> str:
    """Several conditions on one package as one: ``>=3`` and ``3.11.* *_cp311`` give ``>=3,3.11.* *_cp311``."""
    words = [spec.split(None, 1) for spec in dict.fromkeys(specs)]
    versions = [word[0] for word in words if word and word[0] != "*"]
    builds = [word[1] for word in words if len(word) == 2]
    if not builds:
        return ",".join(versions)
    return f"{','.join(versions) or '*'} {builds[0]}"
