"""Provenance: of what an image was made, and by which envbuild (SLSA 1.0, https://slsa.dev/spec/v1.0/provenance).

It holds no time, no host and no path: the same lock, published again by the same envbuild, gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.format import FORMAT as LAYER_FORMAT
from envbuild.lock.file import lock_bytes
from envbuild.lock.model import Artifact, Lock
from envbuild.publish.purl import purl_of
from envbuild.publish.statements import statement

PREDICATE = "https://slsa.dev/provenance/v1"
"""The predicate type; cosign knows it as ``--type slsaprovenance1``."""

BUILD_TYPE = "urn:envbuild:image:1"
"""What the parameters mean: docs/reference/provenance.md. Another meaning needs a new number."""

BUILDER = "urn:envbuild:builder"
"""Who built it: envbuild, on whatever machine. Who vouches for that machine says so by signing."""


def provenance(
    lock: Lock,
    *,
    name: str,
    digest: str,
    builder_version: str,
    moved_from: str | None = None,
    recipe: bytes | None = None,
) -> dict[str, object]:
    """The statement about an image's origin, as plain values.

    Args:
        lock: the image's.
        name: the image's name, for the subject.
        digest: the sha256 digest of the image's manifest.
        builder_version: the version of the envbuild that made it or, where it was made before, found it to be the
            lock's.
        moved_from: the digest of the image that the tag named before, where the tag was moved.
        recipe: the content of ``recipe.toml``, where it is at hand.
    """
    built = lock.native.wheel if lock.native else None
    external: dict[str, object] = {"ref": str(lock.ref), "recipe": lock.recipe}
    if moved_from is not None:
        external["movedFrom"] = {"sha256": moved_from.removeprefix("sha256:")}
    files = [] if recipe is None else [_file("recipe.toml", recipe)]
    files.append(_file("lock.json", lock_bytes(lock)))
    details: dict[str, object] = {"builder": {"id": BUILDER, "version": {"envbuild": builder_version}}}
    if built is not None:
        details["byproducts"] = [_described(built, "built")]
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": external,
            "internalParameters": {"lockFormat": lock.format, "layerFormat": LAYER_FORMAT},
            "resolvedDependencies": [*files, *(_described(item, role) for item, role in _inputs(lock))],
        },
        "runDetails": details,
    }
    return statement(predicate, predicate_type=PREDICATE, name=name, digest=digest)


def exported(lock: Lock, *, builder_version: str, recipe: bytes) -> dict[str, object]:
    """The provenance of the image that a lock names, under the name of its reference.

    Raises:
        EnvbuildError: exit 3, the lock names no image yet.
    """
    if lock.image is None:
        raise EnvbuildError(
            "lock-without-image",
            f"the lock of {lock.ref} names no image yet, so nothing can be said of one",
            where="$.image",
            hint=f"`envbuild image {lock.ref}` builds it, and writes its digest into the lock",
            exit=Exit.INPUT,
        )
    return provenance(
        lock, name=str(lock.ref), digest=lock.image.digest, builder_version=builder_version, recipe=recipe
    )


def _inputs(lock: Lock) -> Iterator[tuple[Artifact, str]]:
    """Every input with its role, in the lock's order."""
    yield from ((item, "debian") for item in lock.debian)
    yield from ((item, "python") for item in lock.python)
    if lock.native is not None:
        yield lock.native.source, "source"
        yield from ((item, "toolchain") for item in lock.native.toolchain)
        yield from ((item, "build") for item in lock.native.build)


def _described(item: Artifact, role: str) -> dict[str, object]:
    """in-toto's ResourceDescriptor of a locked file."""
    return {
        "name": item.basename,
        "uri": purl_of(item).to_string(),
        "digest": {"sha256": item.sha256},
        "annotations": {"role": role},
    }


def _file(name: str, data: bytes) -> dict[str, object]:
    return {"name": name, "digest": {"sha256": hashlib.sha256(data).hexdigest()}}
