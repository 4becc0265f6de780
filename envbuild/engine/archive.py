"""One tar that ``docker load``, ``podman load`` and skopeo (``docker-archive:``, ``oci-archive:``) all take.

It is an OCI image layout (image-spec, image-layout.md) with a ``manifest.json`` beside it, whose paths point into
``blobs/``: Docker up to 26 refuses a layout without that file. The bytes depend on the image and its names only.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from envbuild.engine.model import ImageRef
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import INDEX, MANIFEST
from envbuild.oci.digest import CHUNK, canonical_json
from envbuild.oci.disk import unless_full
from envbuild.progress import Progress

_BLOCK = 512


def write_archive(image: ImageRef, out: Path, progress: Progress) -> int:
    """Write the archive to ``out`` and return its size in bytes.

    ``out`` appears under its name only when it is complete and synced; a file that was there is replaced. A device
    or a pipe is written into as it is.
    Errors: ``blob-corrupt`` (exit 5), ``image-not-in-store`` (exit 3), ``cannot-write`` (exit 2), ``disk-full``
    (exit 7).
    """
    image.check_present()
    total = archive_size(image)
    into = out.exists() and not out.is_file()
    partial = out if into else out.with_name(f".{out.name}.{os.getpid()}.partial")
    written = 0
    try:
        with partial.open("wb") as stream:
            with progress.task(f"Writing {out.name}", total=total) as task:
                for chunk in archive_chunks(image):
                    stream.write(chunk)
                    written += len(chunk)
                    task.advance(len(chunk))
            stream.flush()
            if not into:
                os.fsync(stream.fileno())
                partial.replace(out)
    except OSError as error:
        room = f"the archive takes {total:,} bytes: free some space, or give --output a file on another disk"
        other = EnvbuildError(
            "cannot-write",
            f"cannot write the archive: {error.strerror or error}",
            where=str(out),
            hint="give --output a folder that exists, that you may write, and that has "
            f"{total / 1e9:.1f} GB free",
            exit=Exit.USAGE,
        )
        raise unless_full(error, out, other, hint=room) from error
    finally:
        if not into:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    return written


def archive_size(image: ImageRef) -> int:
    """The archive's size in bytes, known before a byte is written."""
    sizes = [len(data) for _, data in _documents(image)]
    sizes += [image.layout.path(digest).stat().st_size for digest in _blobs(image)]
    return sum(_BLOCK + _padded(size) for size in sizes) + 2 * _BLOCK


def archive_chunks(image: ImageRef) -> Iterator[bytes]:
    """The archive as a stream; each blob's digest is checked while it passes.

    Errors: ``blob-corrupt`` (exit 5) after the wrong blob, so a consumer must treat what it has as worthless;
    ``image-not-in-store`` (exit 3).
    """
    for name, data in _documents(image):
        yield _header(name, len(data)) + data + bytes(_padded(len(data)) - len(data))
    for digest in _blobs(image):
        yield from _blob_chunks(image, digest)
    yield bytes(2 * _BLOCK)


def _documents(image: ImageRef) -> list[tuple[str, bytes]]:
    manifest = {
        "mediaType": MANIFEST,
        "digest": image.manifest,
        "size": image.layout.path(image.manifest).stat().st_size,
        "platform": {"architecture": "amd64", "os": "linux"},
        "annotations": {
            "io.containerd.image.name": image.names[0],
            "org.opencontainers.image.ref.name": image.names[0],
        },
    }
    legacy = {
        "Config": _path(image.config),
        "RepoTags": list(image.names),
        "Layers": [_path(layer.digest) for layer in image.layers],
    }
    return [
        ("oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"})),
        ("index.json", canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]})),
        ("manifest.json", canonical_json([legacy])),
    ]


def _blobs(image: ImageRef) -> list[str]:
    """Config, manifest and layers; a layer that occurs twice is stored once."""
    return list(dict.fromkeys((image.config, image.manifest, *(layer.digest for layer in image.layers))))


def _blob_chunks(image: ImageRef, digest: str) -> Iterator[bytes]:
    hasher = hashlib.sha256()
    try:
        with image.layout.path(digest).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            yield _header(_path(digest), size)
            while chunk := stream.read(CHUNK):
                hasher.update(chunk)
                yield chunk
    except FileNotFoundError as error:
        raise EnvbuildError(
            "image-not-in-store",
            f"the store has no blob {digest}",
            where=str(image.layout.root),
            hint="build the image first: envbuild image REF",
            exit=Exit.INPUT,
        ) from error
    seen = "sha256:" + hasher.hexdigest()
    if seen != digest:
        raise EnvbuildError(
            "blob-corrupt",
            f"a blob of the store does not have the content that its name says\nexpected {digest}\nseen     {seen}",
            where=str(image.layout.path(digest)),
            hint="remove that file and build the image again: envbuild image REF",
            exit=Exit.VERIFY,
        )
    yield bytes(_padded(size) - size)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)
