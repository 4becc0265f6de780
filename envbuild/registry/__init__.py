"""The distribution protocol (OCI distribution spec): images out of a registry and into one, every digest checked."""

from envbuild.registry.content import Blob, Sent
from envbuild.registry.pull import Pulled, pull_image
from envbuild.registry.push import push_all
from envbuild.registry.reference import (
    ImageName,
    Repository,
    base_address,
    is_image_name,
    parse_image_name,
    parse_reference,
    parse_repository,
)
from envbuild.registry.remote import Remote

__all__ = [
    "Blob",
    "ImageName",
    "Pulled",
    "Remote",
    "Repository",
    "Sent",
    "base_address",
    "is_image_name",
    "parse_image_name",
    "parse_reference",
    "parse_repository",
    "pull_image",
    "push_all",
]
