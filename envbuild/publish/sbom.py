"""The software bill of materials of an image: CycloneDX 1.6 JSON (ECMA-424), a pure function of the lock.

Of every package in the image it has name, version, purl, licence and sha256. It names neither a host nor the version of
envbuild that wrote it, so that the same lock gives the same bytes everywhere; who built what is in the provenance.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, cast

from envbuild.image.plan import parts_of
from envbuild.layers.licence_names import spdx_expression
from envbuild.lock.file import lock_bytes
from envbuild.lock.model import Artifact, Lock
from envbuild.native.toolkit import HOME, toolkit_of
from envbuild.oci import digest as digests
from envbuild.publish.purl import image_purl, purl_of
from envbuild.recipe.parts import DEVEL

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression

MEDIA_TYPE = "application/vnd.cyclonedx+json"
"""Of the file (CycloneDX, "Media types")."""

PROPERTY = "envbuild:"
"""How the names of envbuild's own properties begin."""


def sbom(lock: Lock) -> bytes:
    """The bill of materials of the image of ``lock``: JSON in the one spelling of :func:`canonical_json`.

    The components are what is installed: Debian's packages, the wheels, DeepSpeed's compiled wheel; in a ``-devel``
    image also the packages that some files of its CUDA toolkit are of (``envbuild:contents`` says so). DeepSpeed's
    source is there as a build input, with the scope ``excluded``. Serial number and timestamp follow from the lock.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.dependency import Dependency
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6

    image = _image(lock)
    components = list(_components(lock))
    inside = [item for item in components if item.scope is None]
    ends = [Dependency(ref=item.bom_ref) for item in components]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, digests.of_bytes(lock_bytes(lock))),
        metadata=BomMetaData(
            timestamp=datetime.fromisoformat(lock.created),
            component=image,
            tools=ToolRepository(components=[Component(name="envbuild", type=ComponentType.APPLICATION)]),
        ),
        components=components,
        dependencies=[
            Dependency(ref=image.bom_ref, dependencies=[Dependency(ref=item.bom_ref) for item in inside]),
            *ends,
        ],
    )
    return digests.canonical_json(json.loads(JsonV1Dot6(bom).output_as_string())) + b"\n"


def _image(lock: Lock) -> Component:
    """The image itself: what the bill is of."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    digest = lock.image.digest if lock.image else None
    purl = image_purl(lock.ref, digest)
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))] if digest else []
    return Component(
        type=ComponentType.CONTAINER,
        name=lock.ref.name,
        version=lock.ref.tag,
        description=str(lock.recipe.get("description", "")) or None,
        purl=purl,
        bom_ref=purl.to_string(),
        hashes=hashes,
    )


def _components(lock: Lock) -> Iterator[Component]:
    """What is in the image, and DeepSpeed's source; each file once."""
    installed = {item.sha256 for item in (*lock.debian, *lock.python)}
    for item in (*lock.debian, *lock.python):
        yield _component(item)
    if lock.native is not None:
        if lock.native.wheel is not None:
            yield _component(lock.native.wheel, properties=_operator(lock))
        yield _component(lock.native.source, build_input=True)
    for item in toolkit_pieces(lock):
        if item.sha256 not in installed:
            yield _component(item, properties={"contents": f"some files, below /{HOME}"})


def toolkit_pieces(lock: Lock) -> Sequence[Artifact]:
    """The packages that are no part of the image but for the files that its CUDA toolkit has of them."""
    if DEVEL not in parts_of(lock) or lock.native is None:
        return ()
    pieces = toolkit_of(lock).artifacts.values()
    own = {item.sha256 for item in lock.native.toolchain}
    return [item for item in sorted(pieces, key=lambda item: item.name) if item.sha256 in own]


def _operator(lock: Lock) -> dict[str, str]:
    """What was compiled into DeepSpeed's wheel, and for which GPUs."""
    table = cast("Mapping[str, Sequence[str]]", lock.recipe.get("deepspeed") or {})
    return {name: " ".join(table[name]) for name in ("operators", "architectures") if table.get(name)}


def _component(
    item: Artifact, *, properties: Mapping[str, str] | None = None, build_input: bool = False
) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentScope, ComponentType

    purl = purl_of(item)
    return Component(
        type=ComponentType.LIBRARY,
        name=item.name,
        version=item.version,
        scope=ComponentScope.EXCLUDED if build_input else None,
        purl=purl,
        bom_ref=purl.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=item.sha256)],
        licenses=[_licence(item.licence)] if item.licence else [],
        properties=[
            Property(name=PROPERTY + name, value=value) for name, value in sorted((properties or {}).items())
        ],
    )


def _licence(text: str) -> LicenseExpression | DisjunctiveLicense:
    """One licence of SPDX's by its id, several or one of the package's own as an expression, another as a name."""
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.spdx import is_supported_id

    expression = spdx_expression(text)
    if expression is None:
        return DisjunctiveLicense(name=text)
    if is_supported_id(expression):
        return DisjunctiveLicense(id=expression)
    return LicenseExpression(value=expression)
