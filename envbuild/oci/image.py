"""An image as a value: config and manifest bytes are pure functions of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from envbuild.oci import digest as digests
from envbuild.oci.descriptor import CONFIG, MANIFEST, Descriptor
from envbuild.oci.layer import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How a container of the image starts (OCI image spec, config.md, "config")."""

    env: Mapping[str, str]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    working_dir: str
    user: str
    labels: Mapping[str, str]
    exposed_ports: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """The ``config`` object of the image config."""
        value: dict[str, object] = {
            "User": self.user,
            "Env": [f"{key}={text}" for key, text in self.env.items()],
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "WorkingDir": self.working_dir,
            "Labels": dict(sorted(self.labels.items())),
        }
        if self.exposed_ports:
            value["ExposedPorts"] = {port: {} for port in self.exposed_ports}
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Config and layers. Immutable: a change gives another image with another digest.

    ``created`` is an RFC 3339 time in UTC, taken from the lock and never from the clock.
    """

    layers: tuple[Layer, ...]
    run: RunConfig
    created: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "amd64"
    os: str = "linux"

    @property
    def config_bytes(self) -> bytes:
        """The image config blob."""
        return digests.canonical_json(
            {
                "architecture": self.architecture,
                "os": self.os,
                "created": self.created,
                "config": self.run.to_dict(),
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
                "history": [
                    {"created": self.created, "created_by": f"envbuild layer {layer.name}"}
                    for layer in self.layers
                ],
            }
        )

    @property
    def config(self) -> Descriptor:
        """The config's descriptor."""
        data = self.config_bytes
        return Descriptor(media_type=CONFIG, digest=digests.of_bytes(data), size=len(data))

    @property
    def manifest_bytes(self) -> bytes:
        """The image manifest blob (OCI image spec, manifest.md)."""
        value: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.config.to_dict(),
            "layers": [layer.descriptor.to_dict() for layer in self.layers],
        }
        if self.annotations:
            value["annotations"] = dict(sorted(self.annotations.items()))
        return digests.canonical_json(value)

    @property
    def manifest(self) -> Descriptor:
        """The manifest's descriptor."""
        data = self.manifest_bytes
        return Descriptor(media_type=MANIFEST, digest=digests.of_bytes(data), size=len(data))

    @property
    def digest(self) -> str:
        """The image's digest: that of its manifest."""
        return self.manifest.digest
