"""Content descriptors (OCI image spec, descriptor.md) and the media types in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
"""Annotation of an eStargz layer: the digest of its table of contents (stargz-snapshotter, docs/estargz.md)."""
TAR_SIZE = "io.containers.estargz.uncompressed-size"
"""Annotation of an eStargz layer: the size of the plain tar in bytes, which lazy readers cannot know otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Names one blob: media type, digest, size in bytes, annotations; of a manifest, perhaps its artifact type."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None

    def to_dict(self) -> dict[str, object]:
        """The JSON object of the spec."""
        value: dict[str, object] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type is not None:
            value["artifactType"] = self.artifact_type
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value
