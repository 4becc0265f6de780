"""What somebody with write access to a registry may do to an image's proofs, without envbuild."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.request
from collections.abc import Callable
from typing import Any

from shop import Shop

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
CYCLONEDX = "application/vnd.cyclonedx+json"
LOCK = "application/vnd.envbuild.lock.v2+json"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SBOM = "https://cyclonedx.org/bom"


def send(address: str, data: bytes, media_type: str, method: str = "PUT") -> str:
    request = urllib.request.Request(address, data=data, method=method, headers={"Content-Type": media_type})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return str(answer.headers.get("Location", ""))


def put_manifest(shop: Shop, tag: str, manifest: Any, *, as_it_is: bytes | None = None) -> str:
    """Write a manifest, in these very bytes where they are given; returns its digest."""
    data = as_it_is or json.dumps(manifest).encode()
    kind = INDEX if "manifests" in manifest else MANIFEST
    send(f"http://{shop.host}/v2/{shop.path}/manifests/{tag}", data, kind)
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put_blob(shop: Shop, data: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    place = send(f"http://{shop.host}/v2/{shop.path}/blobs/uploads/", b"", "text/plain", "POST")
    send(f"{place}&digest={digest}", data, "application/octet-stream")
    return digest


def content(shop: Shop, entry: dict[str, Any]) -> Any:
    """The JSON of the one file that a referrer attaches."""
    manifest = shop.ask(f"manifests/{entry['digest']}")
    return shop.ask(f"blobs/{manifest['layers'][0]['digest']}")


def statement(shop: Shop, entry: dict[str, Any]) -> Any:
    """The in-toto statement in an attached bundle."""
    return json.loads(base64.b64decode(content(shop, entry)["dsseEnvelope"]["payload"]))


def of_kind(shop: Shop, artifact_type: str, predicate: str | None = None) -> list[dict[str, Any]]:
    """The referrers of one kind."""
    return [
        entry
        for entry in shop.referrers()
        if entry["artifactType"] == artifact_type
        and (predicate is None or entry["annotations"]["dev.sigstore.bundle.predicateType"] == predicate)
    ]


def replace_proof(
    shop: Shop, entry: dict[str, Any], change: Callable[[Any], Any] | None, digest: str | None = None
) -> None:
    """Attach ``change`` of a proof in its place; ``None`` takes it away."""
    fallback = (digest or shop.image.digest).replace(":", "-")
    index = shop.ask(f"manifests/{fallback}")
    index["manifests"] = [item for item in index["manifests"] if item["digest"] != entry["digest"]]
    if change is not None:
        manifest = shop.ask(f"manifests/{entry['digest']}")
        data = change(content(shop, entry))
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        manifest["layers"][0] |= {"digest": put_blob(shop, data), "size": len(data)}
        text = json.dumps(manifest).encode()
        own = "sha256:" + hashlib.sha256(text).hexdigest()
        put_manifest(shop, own, manifest)
        index["manifests"].append({**entry, "digest": own, "size": len(text)})
    put_manifest(shop, fallback, index)
