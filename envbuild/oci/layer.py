"""A layer as a value: what a manifest and a config need to know of one tar."""

from __future__ import annotations

from dataclasses import dataclass

from envbuild.oci.descriptor import LAYER_GZIP, Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One filesystem changeset (OCI image spec, layer.md).

    ``digest`` and ``size`` (bytes) are those of the blob as stored, ``diff_id`` is the digest of the plain tar
    (config.md, "Layer DiffID"). ``name`` is a stable label for people (``base``, ``torch``, ``python-3``);
    ``artifacts`` the names of the locked inputs in it.
    """

    name: str
    digest: str
    diff_id: str
    size: int
    media_type: str = LAYER_GZIP
    artifacts: tuple[str, ...] = ()

    @property
    def descriptor(self) -> Descriptor:
        """What the manifest says of the layer."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)
