"""Proofs beside an image: by the referrers API, and by the fallback tag where a registry has none."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from contents import blob_of, push
from modern_registry import ModernRegistry
from registry_proxy import RegistryProxy, delay, refuse

from envbuild.errors import EnvbuildError
from envbuild.oci.descriptor import INDEX, MANIFEST, Descriptor
from envbuild.oci.digest import canonical_json
from envbuild.registry import Remote
from envbuild.registry.referrers import Attachment

if TYPE_CHECKING:
    from conftest import Connect

SBOM = "application/vnd.cyclonedx+json"
VERDICT = "application/vnd.dev.sigstore.bundle.v0.3+json"


def put_image(remote: Remote) -> Descriptor:
    config = blob_of(b'{"os":"linux","architecture":"amd64"}')
    push(remote, config)
    entry = config.descriptor.to_dict() | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": entry, "layers": []}
    return remote.put_manifest(canonical_json(value), MANIFEST)


def attach(remote: Remote, subject: Descriptor, kind: str, text: bytes, **annotations: str) -> Descriptor:
    [made] = remote.attach(
        subject, [Attachment(artifact_type=kind, blobs=[(text, kind)], annotations=annotations)]
    )
    return made


def both(remote: Remote) -> None:
    subject = put_image(remote)
    assert remote.referrers(subject.digest) == []
    sbom = attach(remote, subject, SBOM, b'{"bomFormat":"CycloneDX"}', title="parts")
    verdict = attach(remote, subject, VERDICT, b"{}")
    assert remote.referrers(subject.digest) == [sbom, verdict]
    assert remote.referrers(subject.digest, VERDICT) == [verdict]
    assert remote.referrers(subject.digest, "text/plain") == []
    assert sbom.artifact_type == SBOM
    assert sbom.annotations == {"title": "parts"}
    value = json.loads(remote.manifest(sbom.digest)[0])
    assert value["subject"] == {"mediaType": MANIFEST, "digest": subject.digest, "size": subject.size}
    assert value["artifactType"] == SBOM
    assert value["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert remote.blob(value["layers"][0]["digest"], limit=100) == b'{"bomFormat":"CycloneDX"}'


def test_by_the_api(modern: ModernRegistry, connect: Connect) -> None:
    both(connect(modern.host))
    assert not any(call.startswith("PUT") and "manifests/sha256-" in call for call in modern.calls)
    assert any("artifactType=application%2Fvnd.dev.sigstore" in call for call in modern.calls)


def test_by_the_fallback_tag(empty: int, connect: Connect) -> None:
    remote = connect(f"127.0.0.1:{empty}")
    both(remote)
    [tag] = remote.tags()
    data, descriptor = remote.manifest(tag)
    assert descriptor.media_type == INDEX
    assert tag.startswith("sha256-")
    assert {entry["artifactType"] for entry in json.loads(data)["manifests"]} == {SBOM, VERDICT}
    seen = subprocess.run(
        [
            *("skopeo", "inspect", "--raw", "--tls-verify=false"),
            f"docker://127.0.0.1:{empty}/team/app@{json.loads(data)['manifests'][0]['digest']}",
        ],
        check=True,
        capture_output=True,
    ).stdout
    assert json.loads(seen)["artifactType"] == SBOM


def test_the_same_twice_changes_nothing(front: RegistryProxy, connect: Connect) -> None:
    remote = connect(front.host)
    subject = put_image(remote)
    first = attach(remote, subject, SBOM, b"{}")
    front.calls.clear()
    assert attach(remote, subject, SBOM, b"{}") == first
    assert remote.referrers(subject.digest) == [first]
    assert not any("manifests/sha256-" in call for call in front.calls if call.startswith("PUT"))
    assert not any(call.startswith(("POST", "PATCH")) for call in front.calls)


def test_nothing_but_annotations_can_be_attached(empty: int, connect: Connect) -> None:
    remote = connect(f"127.0.0.1:{empty}")
    subject = put_image(remote)
    [made] = remote.attach(subject, [Attachment(artifact_type=SBOM, blobs=[], annotations={"a": "b"})])
    assert len(json.loads(remote.manifest(made.digest)[0])["layers"]) == 1


def test_what_others_have_entered_stays(empty: int, connect: Connect) -> None:
    remote = connect(f"127.0.0.1:{empty}")
    subject = put_image(remote)
    other: dict[str, Any] = {**subject.to_dict(), "artifactType": "other", "urls": ["https://example.org"]}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [other]}
    tag = subject.digest.replace(":", "-")
    remote.put_manifest(json.dumps(index, indent=1).encode(), INDEX, tag=tag)
    attach(remote, subject, SBOM, b"{}")
    entries = json.loads(remote.manifest(tag)[0])["manifests"]
    assert entries[0] == other
    assert entries[1]["artifactType"] == SBOM


def test_two_who_attach_at_once_lose_nothing(front: RegistryProxy, connect: Connect) -> None:
    """All read the empty index before the first writes it, because writing takes a while."""
    subject = put_image(connect(front.host))
    front.faults = [(r"^PUT .*manifests/sha256-", delay(0.15), True)]
    made: list[Descriptor] = []

    def work(number: int) -> None:
        made.append(attach(connect(front.host), subject, SBOM, f"{number}".encode()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = connect(front.host).referrers(subject.digest)
    assert {item.digest for item in found} == {item.digest for item in made}
    assert len(made) == 4


def test_an_entry_that_keeps_being_lost_is_told(front: RegistryProxy, connect: Connect) -> None:
    remote = connect(front.host)
    subject = put_image(remote)
    front.faults = [(r"^PUT .*manifests/sha256-", lambda handler: handler.send(201, b""), True)]
    with pytest.raises(EnvbuildError) as caught:
        attach(remote, subject, SBOM, b"{}")
    assert caught.value.id == "referrers-busy"


@pytest.mark.parametrize(
    "answer",
    [
        b"no json",
        b"[]",
        b'{"manifests":[1]}',
        b'{"manifests":[{"mediaType":"x","digest":"sha256:1","size":1}]}',
        b'{"manifests":[{"mediaType":"x","digest":"sha256:' + b"0" * 64 + b'","size":"1"}]}',
    ],
)
def test_a_malformed_list_is_refused(front: RegistryProxy, connect: Connect, answer: bytes) -> None:
    front.faults = [(r"referrers", lambda handler: handler.send(200, answer), True)]
    with pytest.raises(EnvbuildError) as caught:
        connect(front.host).referrers("sha256:" + "0" * 64)
    assert caught.value.id == "registry-failed"


def test_a_registry_that_fails_is_not_taken_for_one_without_the_api(
    front: RegistryProxy, connect: Connect
) -> None:
    front.faults = [(r"referrers", refuse(500, "UNKNOWN"), True)]
    with pytest.raises(EnvbuildError, match="answered 500"):
        connect(front.host).referrers("sha256:" + "0" * 64)


def test_tags_come_in_pages(modern: ModernRegistry, connect: Connect) -> None:
    remote = connect(modern.host)
    subject = put_image(remote)
    data, _ = remote.manifest(subject.digest)
    for number in range(5):
        remote.put_manifest(data, MANIFEST, tag=f"v{number}")
    assert remote.tags() == ["v0", "v1", "v2", "v3", "v4"]


def test_a_registry_that_tells_no_digests(modern: ModernRegistry, connect: Connect) -> None:
    modern.tells_digests = False
    remote = connect(modern.host)
    subject = put_image(remote)
    assert remote.head(subject.digest) == subject
    assert remote.manifest(subject.digest)[1] == subject
