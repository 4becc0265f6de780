"""An image as its registry describes it: manifest and config, checked; no layer is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci import digest as digests
from envbuild.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, MANIFEST, Descriptor
from envbuild.oci.document import read_json, read_object
from envbuild.registry.pull import choose_image
from envbuild.registry.remote import Remote

LIMIT = 4 << 20
"""Bytes of a manifest or config: what registries accept at least (distribution spec, "Pushing Manifests")."""

_DOCKER = "application/vnd.docker."
_MANIFESTS = (MANIFEST, f"{_DOCKER}distribution.manifest.v2+json")
_INDEXES = (INDEX, f"{_DOCKER}distribution.manifest.list.v2+json")
_CONFIGS = (CONFIG, f"{_DOCKER}container.image.v1+json")
_LAYERS = (
    LAYER_TAR,
    LAYER_GZIP,
    LAYER_ZSTD,
    f"{_DOCKER}image.rootfs.diff.tar",
    f"{_DOCKER}image.rootfs.diff.tar.gzip",
    f"{_DOCKER}image.rootfs.diff.tar.zstd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteImage:
    """One image. ``manifest`` names it, ``data`` are the manifest's bytes, ``config_data`` the config's."""

    manifest: Descriptor
    data: bytes
    config: Descriptor
    config_data: bytes
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The image's digest."""
        return self.manifest.digest

    @property
    def labels(self) -> dict[str, str]:
        """The config's labels."""
        settings = read_object(self.config_data).get("config") or {}
        labels = settings.get("Labels") if isinstance(settings, dict) else None
        return {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}

    @property
    def size(self) -> int:
        """Bytes of all layers, as a node fetches them."""
        return sum(layer.size for layer in self.layers)


def read_image(remote: Remote, reference: str, *, of_index: bool = False) -> RemoteImage:
    """Read the image that ``reference`` (a tag or a digest) names in ``remote``.

    Args:
        remote: the repository.
        reference: a tag or a digest.
        of_index: take the image for linux/amd64 where it names an index; without, an index is refused: what is said of
            one image would not be said of the others.

    Raises:
        EnvbuildError: exit 4, it is not there or the registry fails; exit 5, wrong bytes, or a config that does not fit
            the manifest; exit 3, something that is no image, or an index of several.
    """
    data, descriptor = remote.manifest(reference)
    where = f"{remote.name}@{descriptor.digest}"
    value = _object(data, where)
    media_type = str(value.get("mediaType") or descriptor.media_type)
    if media_type in _INDEXES:
        chosen = choose_image(value, where)
        if not of_index:
            hint = f"name one of its images by digest: {remote.name}@{chosen} is the one for linux/amd64"
            raise _unusable(where, "is an index of several images", hint)
        return read_image(remote, chosen)
    if media_type not in _MANIFESTS:
        raise _unusable(where, f"has the unknown media type {media_type!r}", "name a container image")
    config, layers = _parts(value, where)
    config_data = remote.blob(config.digest, limit=LIMIT)
    return RemoteImage(
        manifest=Descriptor(media_type=media_type, digest=descriptor.digest, size=len(data)),
        data=data,
        config=config,
        config_data=config_data,
        layers=layers,
        diff_ids=_diff_ids(_object(config_data, where), len(layers), where),
    )


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = read_json(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _unusable(where, "has a manifest or config that is no JSON object", "name another image")
    return value


def _parts(value: Mapping[str, Any], where: str) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    config, layers = value.get("config"), value.get("layers")
    if not isinstance(config, dict) or not isinstance(layers, list):
        raise _unusable(where, "is no image manifest", "name a container image")
    parts = [_descriptor(entry, where) for entry in (config, *layers)]
    for number, part in enumerate(parts):
        if part.media_type not in (_LAYERS if number else _CONFIGS):
            raise _unusable(
                where, f"has a part of the unknown type {part.media_type!r}", "name a container image"
            )
    return parts[0], tuple(parts[1:])


def _descriptor(entry: object, where: str) -> Descriptor:
    if isinstance(entry, dict):
        digest, size = entry.get("digest"), entry.get("size")
        if digests.is_digest(digest) and type(size) is int and size >= 0:
            notes = entry.get("annotations")
            return Descriptor(
                media_type=str(entry.get("mediaType")),
                digest=digest,
                size=size,
                annotations={str(k): str(v) for k, v in notes.items()} if isinstance(notes, dict) else {},
            )
    raise _unusable(where, "has a malformed descriptor in its manifest", "name another image")


def _diff_ids(config: Mapping[str, Any], layers: int, where: str) -> tuple[str, ...]:
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or len(found) != layers:
        raise EnvbuildError(
            "bad-image",
            f"{where} has {layers} layers and a config that says otherwise",
            where=where,
            hint="push the image again with the tool that made it",
            exit=Exit.VERIFY,
        )
    return tuple(str(item) for item in found)


def _unusable(where: str, what: str, hint: str) -> EnvbuildError:
    return EnvbuildError("unusable-image", f"{where} {what}", hint=hint, exit=Exit.INPUT, where=where)
