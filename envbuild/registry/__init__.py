"""The distribution protocol (OCI distribution spec): pull an image by digest, verified, into the store."""

from envbuild.registry.pull import Pulled, pull_image
from envbuild.registry.reference import Reference, parse_reference

__all__ = ["Pulled", "Reference", "parse_reference", "pull_image"]
