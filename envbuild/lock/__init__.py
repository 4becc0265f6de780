"""Locks: resolving Python and Debian packages, reading and writing ``lock.json``."""

from envbuild.lock.asked import asked_recipe
from envbuild.lock.compare import check, follows
from envbuild.lock.conda.channels import CondaChannels
from envbuild.lock.conda.check import check_conda, follows_conda
from envbuild.lock.conda.file import conda_lock_bytes, parse_conda_lock, read_conda_lock
from envbuild.lock.conda.model import CondaChannel, CondaLock, CondaPackage
from envbuild.lock.conda.resolve import resolve_conda
from envbuild.lock.file import is_older, lock_bytes, parse_lock, read_lock
from envbuild.lock.indexes import Indexes
from envbuild.lock.model import Artifact, ImageLock, Lock, NativeLock
from envbuild.lock.requirements import requirements_txt
from envbuild.lock.resolve import resolve
from envbuild.lock.sources import sources_for

__all__ = [
    "Artifact",
    "CondaChannel",
    "CondaChannels",
    "CondaLock",
    "CondaPackage",
    "ImageLock",
    "Indexes",
    "Lock",
    "NativeLock",
    "asked_recipe",
    "check",
    "check_conda",
    "conda_lock_bytes",
    "follows",
    "follows_conda",
    "is_older",
    "lock_bytes",
    "parse_conda_lock",
    "parse_lock",
    "read_conda_lock",
    "read_lock",
    "requirements_txt",
    "resolve",
    "resolve_conda",
    "sources_for",
]
