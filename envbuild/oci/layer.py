"""A layer as a value: what a manifest and a config need to know of one tar."""

from __future__ import annotations

from dataclasses import dataclass

from envbuild.oci.descriptor import LAYER_GZIP, TAR_SIZE, TOC_DIGEST, Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One filesystem changeset (OCI image spec, layer.md).

    ``digest`` and ``size`` (bytes) are those of the blob as stored, ``diff_id`` is the digest of the plain tar
    (config.md, "Layer DiffID"). ``name`` is a stable label for people (``base``, ``torch``, ``python-3``);
    ``artifacts`` the names of the locked inputs in it. A layer that can be read by file (eStargz) has ``toc``, the
    digest of its table of contents, and ``tar_size``, the bytes of the plain tar.
    """

    name: str
    digest: str
    diff_id: str
    size: int
    media_type: str = LAYER_GZIP
    toc: str | None = None
    tar_size: int | None = None
    artifacts: tuple[str, ...] = ()

    @property
    def descriptor(self) -> Descriptor:
        """What the manifest says of the layer."""
        annotations = {} if self.toc is None else {TOC_DIGEST: self.toc}
        if self.tar_size is not None:
            annotations[TAR_SIZE] = str(self.tar_size)
        return Descriptor(
            media_type=self.media_type, digest=self.digest, size=self.size, annotations=annotations
        )
