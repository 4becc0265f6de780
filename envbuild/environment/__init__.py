"""Conda environments from a conda lock, without conda."""

from envbuild.environment.create import Created, Means, create, size_to_fetch
from envbuild.environment.machine import check_machine, virtual_of_machine
from envbuild.environment.prefix import check_path

__all__ = [
    "Created",
    "Means",
    "check_machine",
    "check_path",
    "create",
    "size_to_fetch",
    "virtual_of_machine",
]
