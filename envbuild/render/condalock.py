"""conda-lock.yml in conda-lock's format, version 1. The tests compare it with what conda-lock itself writes."""

from __future__ import annotations

import hashlib
import json
from typing import Final

import yaml

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock, CondaPackage

SOURCE: Final = "environment.yml"
"""What conda-lock.yml names as the file that it was made from."""

_TIMESTAMP: Final = 1577854800000
"""What conda-lock takes as the build time of every virtual package."""


def conda_lock_yml(conda: CondaLock, environment: str) -> str:
    """The lock in conda-lock's format, without comments. It holds no time, no user and nothing of the machine.

    DeepSpeed is not in it: conda-lock names what pip installs by an address on an index.

    Args:
        conda: the lock.
        environment: the text of environment.yml without its pip part; conda-lock's content hash is about it and
            about the virtual packages.

    Raises:
        EnvbuildError: exit 3, a package has no md5.
    """
    lock = {
        "version": 1,
        "metadata": {
            "content_hash": {conda.platform: _content_hash(conda, environment)},
            "channels": [_channel(channel.name) for channel in conda.channels],
            "platforms": [conda.platform],
            "sources": [SOURCE],
        },
        "package": [
            _locked(conda, package) for package in sorted(conda.packages, key=lambda package: package.name)
        ],
    }
    return str(yaml.safe_dump(lock, sort_keys=False))


def _channel(name: str) -> dict[str, object]:
    return {"url": name, "used_env_vars": []}


def _content_hash(conda: CondaLock, environment: str) -> str:
    """What ``conda-lock --check-input-hash`` compares: SHA-256 over what was asked for, and for which machine."""
    asked = yaml.safe_load(environment)
    packages = sorted(tuple(line.split("=")) for line in asked["dependencies"])
    content = {
        "channels": [
            json.dumps(_channel(name), separators=(",", ":"))
            for name in asked["channels"]
            if name != "nodefaults"
        ],
        "specs": [
            {
                "name": name, "version": version, "build": build, "manager": "conda", "category": "main",
                "extras": [], "conda_channel": None, "hash": None,
            }
            for name, version, build in packages
        ],
        "virtual_package_hash": {
            "noarch": {"info": {"subdir": "noarch"}, "packages": {}},
            conda.platform: {"info": {"subdir": conda.platform}, "packages": _virtual(conda)},
        },
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _virtual(conda: CondaLock) -> dict[str, object]:
    """The virtual packages as the channel's index that conda-lock makes of them."""
    found: dict[str, object] = {}
    for name, text in conda.virtual.items():
        version, _, build_string = text.partition("=")
        build = f"{build_string}_0" if build_string else "0"
        found[f"{name}-{version}-{build}.tar.bz2"] = {
            "name": name, "version": version, "build": build, "build_string": build_string, "build_number": 0,
            "subdir": conda.platform, "noarch": "", "depends": [], "package_type": "virtual_system",
            "timestamp": _TIMESTAMP,
        }  # fmt: skip
    return found


def _locked(conda: CondaLock, package: CondaPackage) -> dict[str, object]:
    if package.md5 is None:
        raise EnvbuildError(
            "no-md5",
            f"{package.channel} gives {package.file} no md5, which conda-lock asks for",
            hint="use `envbuild export --format explicit`, or `envbuild env create`",
            exit=Exit.INPUT,
        )
    return {
        "name": package.name,
        "version": package.version,
        "manager": "conda",
        "platform": conda.platform,
        "dependencies": dict(sorted(dependencies(package).items())),
        "url": conda.url(package),
        "hash": {"md5": package.md5, "sha256": package.sha256},
        "category": "main",
        "optional": False,
    }


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
