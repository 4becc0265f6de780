"""Pull one image, by digest or by what a tag names now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci import digest as digests
from envbuild.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, MANIFEST, Descriptor
from envbuild.oci.document import check_descriptors, read_json, read_object
from envbuild.oci.layer import Layer
from envbuild.progress import Progress
from envbuild.registry.manifests import LIMIT, head_manifest, read_manifest
from envbuild.registry.reference import ImageName, parse_reference
from envbuild.registry.refusals import CHANGED
from envbuild.registry.session import Session
from envbuild.store.download import Wanted
from envbuild.store.fetch import fetch
from envbuild.store.http import Http
from envbuild.store.store import Store

_DOCKER = "application/vnd.docker."
_LAYER_TYPES = {
    LAYER_TAR: LAYER_TAR,
    LAYER_GZIP: LAYER_GZIP,
    LAYER_ZSTD: LAYER_ZSTD,
    _DOCKER + "image.rootfs.diff.tar": LAYER_TAR,
    _DOCKER + "image.rootfs.diff.tar.gzip": LAYER_GZIP,
    _DOCKER + "image.rootfs.diff.tar.zstd": LAYER_ZSTD,
}
_CONFIG_TYPES = {CONFIG: CONFIG, _DOCKER + "container.image.v1+json": CONFIG}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """An image that lies in the store's layout, all blobs verified; but for layers that the caller has otherwise.

    ``reference`` has the digest that was asked for, or that the tag named; ``manifest`` is that of linux/amd64,
    also where ``reference`` names an index; ``config`` its image config; ``layers`` bottom first, with OCI media
    types whatever the registry called them; ``fetched`` the bytes of blobs that came from the registry.
    """

    reference: ImageName
    manifest: Descriptor
    config: Mapping[str, Any]
    layers: tuple[Layer, ...]
    fetched: int = 0


def pull_image(
    reference: str | ImageName,
    *,
    store: Store,
    http: Http,
    environ: Mapping[str, str],
    jobs: int,
    progress: Progress,
    has_layer: Callable[[str], bool] | None = None,
) -> Pulled:
    """Bring the linux/amd64 image that ``reference`` names into the store's layout.

    Every blob is checked by digest and size while it streams, several at once; cuts are resumed. An image that is
    named by digest and complete in the store costs no request.

    Args:
        reference: ``[REGISTRY/]REPOSITORY[:TAG]@sha256:HEX``, or a name, where a tag is enough.
        store: where to.
        http: the connections.
        environ: where Docker's configuration is found (credentials).
        jobs: blobs at once.
        progress: one task for all blobs.
        has_layer: whether the caller has a layer, by its diff_id; its blob is not fetched then.

    Raises:
        EnvbuildError: no digest, or malformed (exit 2); the registry fails or refuses (exit 4); wrong bytes
            (exit 5); no image for linux/amd64, or not an image (exit 3).
    """
    name = parse_reference(reference) if isinstance(reference, str) else reference
    session = Session(name.repository, http, environ)
    name = _resolve(name, session)
    digest = name.reference
    top, media_type = _manifest(digest, session, store)
    if "manifests" in top:
        digest = choose_image(top, str(name))
        top, media_type = _manifest(digest, session, store)
    blobs = _blobs(top, name)

    fetching = _Fetching(session, store, http, jobs, progress)
    if has_layer is None:
        fetching.bring(blobs)
    else:
        fetching.bring(blobs[:1])
    config = _config(blobs[0], store, name)
    layers = _layers(blobs[1:], config, name)
    if has_layer is not None:
        fetching.bring([layer.descriptor for layer in layers if not has_layer(layer.diff_id)])
    size = store.layout.path(digest).stat().st_size
    return Pulled(
        reference=name,
        manifest=Descriptor(media_type=media_type, digest=digest, size=size),
        config=config,
        layers=layers,
        fetched=fetching.fetched,
    )


class _Fetching:
    """The blobs of one image, from the registry into the layout."""

    def __init__(self, session: Session, store: Store, http: Http, jobs: int, progress: Progress) -> None:
        self._session = session
        self._store = store
        self._http = http
        self._jobs = jobs
        self._progress = progress
        self.fetched = 0

    def bring(self, blobs: Sequence[Descriptor]) -> None:
        layout = self._store.layout
        self.fetched += fetch(
            self._store,
            [_wanted(blob, self._session) for blob in blobs],
            http=self._http,
            jobs=self._jobs,
            progress=self._progress,
            place=lambda sha256: layout.path("sha256:" + sha256),
        )


def _resolve(name: ImageName, session: Session) -> ImageName:
    """The name with the digest that its tag names now, where it has none."""
    if name.digest is not None:
        return name
    found = head_manifest(session, name.reference)
    digest = found.digest if found is not None else read_manifest(session, name.reference)[1].digest
    return replace(name, digest=digest)


def _manifest(digest: str, session: Session, store: Store) -> tuple[dict[str, Any], str]:
    """A manifest or index by digest, from the layout or the registry, and its media type."""
    if store.layout.has(digest):
        data, told = store.layout.read(digest), ""
    else:
        data, descriptor = read_manifest(session, digest)
        told = descriptor.media_type
    try:
        value = read_object(data)
    except ValueError as error:
        raise _unusable(digest, f"is no manifest: {error}", "name another image") from None
    if value.get("schemaVersion") != 2:
        raise _unusable(
            digest, "is not a manifest of schema version 2", "take an image that was pushed by a newer tool"
        )
    try:
        check_descriptors(value)
    except ValueError as error:
        raise _unusable(digest, f"has a malformed manifest: {error}", "name another image") from None
    store.layout.put(data)
    fallback = INDEX if "manifests" in value else MANIFEST
    return value, str(value.get("mediaType") or told or fallback)


def choose_image(index: Mapping[str, Any], where: str) -> str:
    """The digest of the manifest for linux/amd64 of an index (OCI image spec, image-index.md, "platform").

    Raises:
        EnvbuildError: it has none (exit 3).
    """
    offered: list[str] = []
    manifests = index.get("manifests")
    for entry in manifests if isinstance(manifests, list) else ():
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(platform, dict):
            continue
        kind = f"{platform.get('os')}/{platform.get('architecture')}"
        digest = entry.get("digest")
        if kind == "linux/amd64" and platform.get("variant") in (None, "", "v1") and _is_digest(digest):
            return str(digest)
        if kind != "unknown/unknown":
            offered.append(kind)
    raise _unusable(
        where,
        f"has no image for linux/amd64 (it has {', '.join(sorted(set(offered))) or 'none'})",
        "name an image that is built for linux/amd64",
    )


def _blobs(manifest: Mapping[str, Any], name: ImageName) -> list[Descriptor]:
    """The descriptors of config and layers, checked."""
    config, layers = manifest.get("config"), manifest.get("layers")
    if not isinstance(config, dict) or not isinstance(layers, list):
        raise _unusable(str(name), "is not an image manifest", "name an image, not another kind of artifact")
    blobs: list[Descriptor] = []
    for number, entry in enumerate([config, *layers]):
        media_type = str(entry.get("mediaType")) if isinstance(entry, dict) else "unknown"
        kind = (_CONFIG_TYPES if number == 0 else _LAYER_TYPES).get(media_type)
        if kind is None:
            raise _unusable(str(name), f"has a part of type {media_type}", "name an ordinary container image")
        size = entry.get("size")
        if not _is_digest(entry.get("digest")) or type(size) is not int or size < 0:
            raise _unusable(str(name), "has a malformed descriptor in its manifest", "name another image")
        if number == 0 and size > LIMIT:
            raise _unusable(str(name), f"has a config of {size} bytes", "name an ordinary container image")
        blobs.append(Descriptor(media_type=kind, digest=entry["digest"], size=size))
    return blobs


def _wanted(blob: Descriptor, session: Session) -> Wanted:
    return Wanted(
        name=str(session.name),
        file=blob.digest,
        sha256=blob.digest.removeprefix("sha256:"),
        size=blob.size,
        sources=(session.source(blob.digest),),
        changed=CHANGED,
    )


def _config(blob: Descriptor, store: Store, name: ImageName) -> dict[str, Any]:
    try:
        value = read_json(store.layout.read(blob.digest))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _unusable(str(name), "has a config that is not JSON", "name another image")
    kind = f"{value.get('os')}/{value.get('architecture')}"
    if kind != "linux/amd64":
        raise _unusable(str(name), f"is for {kind}", "name an image that is built for linux/amd64")
    return value


def _layers(blobs: list[Descriptor], config: Mapping[str, Any], name: ImageName) -> tuple[Layer, ...]:
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(blobs) or not all(map(_is_digest, diff_ids)):
        raise _unusable(str(name), "has a config that does not match its layers", "name another image")
    return tuple(
        Layer(
            name=f"base-{number}",
            digest=blob.digest,
            diff_id=diff_id,
            size=blob.size,
            media_type=blob.media_type,
        )
        for number, (blob, diff_id) in enumerate(zip(blobs, diff_ids, strict=True))
    )


def _is_digest(value: object) -> bool:
    return digests.is_digest(value)


def _unusable(where: str, what: str, hint: str) -> EnvbuildError:
    return EnvbuildError("unusable-image", f"{where} {what}", hint=hint, exit=Exit.INPUT, where=where)
