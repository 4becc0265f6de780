"""What a registry refuses, in plain words with a hint, each with its id and exit code."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from contents import blob_of, push, random_bytes
from modern_registry import ModernRegistry
from registry_proxy import RegistryProxy, claim, expire, flip, flip_sent, redirect, refuse, status
from registry_server import HTPASSWD, start_registry

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import MANIFEST
from envbuild.oci.digest import canonical_json
from envbuild.progress import SilentProgress
from envbuild.registry import Blob
from envbuild.registry.push import push_all

if TYPE_CHECKING:
    from conftest import Connect

BLOB = blob_of(random_bytes(300_000), "torch")
WRITING = [r"^POST ", r"^PATCH ", r"^PUT .*digest="]


def refused(action: Callable[[], object]) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        action()
    assert caught.value.hint
    return caught.value


def image(*layers: Blob) -> bytes:
    """A manifest without a config of its own."""
    config = blob_of(b"{}").descriptor.to_dict() | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [layer.descriptor.to_dict() for layer in layers],
    }
    return canonical_json(value)


def docker_config(folder: Path, host: str, account: str) -> dict[str, str]:
    value = {"auths": {host: {"auth": base64.b64encode(account.encode()).decode()}}}
    (folder / "config.json").write_text(json.dumps(value))
    return {"DOCKER_CONFIG": str(folder)}


def test_down(connect: Connect) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        remote = connect(f"127.0.0.1:{closed.getsockname()[1]}")
        for action in (lambda: push(remote, BLOB), remote.tags, lambda: remote.head("v1")):
            error = refused(action)
            assert (error.id, error.exit) == ("registry-failed", Exit.NETWORK)
            assert "cannot be reached" in error.message
            assert "Connection refused" in error.message


@pytest.fixture
def full(tmp_path: Path) -> Iterator[int]:
    """A real registry whose disk has 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    process, port = start_registry(folder)
    yield port
    process.terminate()
    process.wait()
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_real_registry_whose_disk_is_full(full: int, connect: Connect) -> None:
    remote = connect(f"127.0.0.1:{full}")
    error = refused(lambda: push(remote, blob_of(random_bytes(6_000_000), "torch")))
    assert (error.id, error.exit) == ("registry-full", Exit.NETWORK)
    assert "torch" in error.message
    assert "no room left" in error.message


def test_a_full_disk_is_one_error_whichever_of_several_blobs_finds_it_first(
    full: int, connect: Connect
) -> None:
    """The disk is filled by the large ones; small ones then cannot even begin."""
    sizes = (3_500_000, 3_000_000, 1_000_000, 5_000, 3_000, 2_000, 1_000)
    blobs = [blob_of(random_bytes(size), f"of-{size}") for size in sizes]
    error = refused(lambda: push_all(connect(f"127.0.0.1:{full}"), blobs, jobs=4, progress=SilentProgress()))
    assert (error.id, error.exit) == ("registry-full", Exit.NETWORK)
    assert re.search(r"asked to take of-\d+, answered .*: it has no room left$", error.message)
    assert "free space in the registry" in error.hint


@pytest.mark.parametrize("where", WRITING)
@pytest.mark.parametrize(
    "fault",
    [
        status(507),
        refuse(500, "UNKNOWN", "write /data/x: no space left on device"),
        refuse(403, "DENIED", "adding 3 GiB would exceed the project's quota"),
    ],
)
def test_full(front: RegistryProxy, connect: Connect, where: str, fault: object) -> None:
    front.faults = [(where, fault, True)]  # type: ignore[list-item]  # pytest gives parameters as objects
    error = refused(lambda: push(connect(front.host), BLOB))
    assert error.id == "registry-full"
    assert sum(call.startswith(where[1:5]) for call in front.calls) == 1  # trying again would not help


def test_read_only(tmp_path: Path, connect: Connect) -> None:
    process, port = start_registry(tmp_path, read_only=True)
    try:
        remote = connect(f"127.0.0.1:{port}")
        for action in (lambda: push(remote, BLOB), lambda: remote.put_manifest(image(), MANIFEST)):
            error = refused(action)
            assert (error.id, error.exit) == ("registry-read-only", Exit.NETWORK)
            assert "405" in error.message
            assert "takes no content" in error.message
        assert remote.head("v1") is None
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("where", [*WRITING, r"^PUT .*manifests"])
def test_not_allowed_to_write(front: RegistryProxy, connect: Connect, where: str) -> None:
    front.faults = [(where, refuse(403, "DENIED", "requested access to the resource is denied"), True)]
    remote = connect(front.host)

    def both() -> None:
        push(remote, BLOB, blob_of(b"{}"))
        remote.put_manifest(image(BLOB), MANIFEST)

    error = refused(both)
    assert (error.id, error.exit) == ("not-allowed", Exit.NETWORK)
    assert "403 (DENIED requested access to the resource is denied): not allowed to write" in error.message
    assert "may push" in error.hint


def test_a_token_that_may_only_read(front: RegistryProxy, connect: Connect) -> None:
    """The registry asks again and again for a token that may write, and the token service gives none that may."""
    front.token = "reader"
    front.faults = [(r"^POST ", lambda handler: handler.challenge(), True)]
    error = refused(lambda: push(connect(front.host), BLOB))
    assert error.id == "not-allowed"
    assert "not allowed to write" in error.message
    assert front.token_requests[-1]["scope"] == "repository:team/app:pull,push"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """The host of a real registry that asks for a password (me, secret)."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    process, port = start_registry(tmp_path, htpasswd=tmp_path / "htpasswd")
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


def test_passwords(guarded: str, connect: Connect, tmp_path: Path) -> None:
    error = refused(lambda: push(connect(guarded), BLOB))
    assert (error.id, error.exit) == ("not-allowed", Exit.NETWORK)
    assert "asks for a password" in error.message
    error = refused(lambda: push(connect(guarded, **docker_config(tmp_path, guarded, "me:guess")), BLOB))
    assert error.id == "not-allowed"
    assert "401" in error.message
    assert "guess" not in repr(error.to_dict())
    remote = connect(guarded, **docker_config(tmp_path, guarded, "me:secret"))
    assert push(remote, BLOB)[0].how == "uploaded"


def test_a_password_from_variables(guarded: str, connect: Connect) -> None:
    account = {"ENVBUILD_REGISTRY_USER": "me", "ENVBUILD_REGISTRY_PASSWORD": "secret"}
    remote = connect(guarded, **account, ENVBUILD_REGISTRY=f"{guarded}/other/place")
    assert push(remote, BLOB)[0].how == "uploaded"
    elsewhere = connect(guarded, **account, ENVBUILD_REGISTRY="registry.example.org/team")
    assert "asks for a password" in refused(lambda: push(elsewhere, BLOB)).message
    config = json.dumps({"auths": {guarded: {"username": "me", "password": "secret"}}})
    assert connect(guarded, DOCKER_AUTH_CONFIG=config).has(BLOB.descriptor.digest)


def test_a_ready_token(front: RegistryProxy, connect: Connect) -> None:
    front.token = "ready"
    where = {"ENVBUILD_REGISTRY": f"{front.host}/team/app"}
    assert push(connect(front.host, ENVBUILD_REGISTRY_TOKEN="ready", **where), BLOB)[0].how == "uploaded"
    assert front.token_requests == []
    error = refused(lambda: push(connect(front.host, ENVBUILD_REGISTRY_TOKEN="old", **where), BLOB))
    assert error.id == "not-allowed"
    assert "ENVBUILD_REGISTRY_TOKEN: it is wrong or has expired" in error.message
    remote = connect(front.host, ENVBUILD_REGISTRY_TOKEN="ready", **where)
    front.faults = [(r"^PATCH ", expire, False)]
    error = refused(lambda: push(remote, blob_of(random_bytes(200_000, 1))))
    assert "wrong or has expired" in error.message


@pytest.mark.parametrize(
    "environ",
    [
        {"ENVBUILD_REGISTRY_USER": "me", "ENVBUILD_REGISTRY_PASSWORD": "x"},
        {"ENVBUILD_REGISTRY_TOKEN": "x"},
        {"ENVBUILD_REGISTRY_USER": "me", "ENVBUILD_REGISTRY": "r.example.org/a"},
        {"ENVBUILD_REGISTRY_PASSWORD": "x", "ENVBUILD_REGISTRY": "r.example.org/a"},
        {
            "ENVBUILD_REGISTRY_USER": "me",
            "ENVBUILD_REGISTRY_PASSWORD": "x",
            "ENVBUILD_REGISTRY_TOKEN": "y",
            "ENVBUILD_REGISTRY": "r.example.org/a",
        },
    ],
)
def test_variables_that_cannot_be_meant_so(connect: Connect, environ: dict[str, str]) -> None:
    error = refused(lambda: connect("127.0.0.1:1", **environ))
    assert (error.id, error.exit) == ("registry-credentials", Exit.USAGE)
    assert "ENVBUILD_REGISTRY=" in error.hint


def test_a_registry_that_lies_about_digests(front: RegistryProxy, connect: Connect) -> None:
    remote = connect(front.host)
    other = "sha256:" + "0" * 64
    config = blob_of(b"{}")
    lie = claim(docker_content_digest=other)
    for where, action in (
        (r"^PUT .*digest=", lambda: push(remote, BLOB)),
        (r"^HEAD .*blobs", lambda: remote.has(BLOB.descriptor.digest)),
        (
            r"^PUT .*manifests",
            lambda: push(remote, BLOB, config) and remote.put_manifest(image(BLOB), MANIFEST),
        ),
        (r"^PUT .*manifests", lambda: remote.put_manifest(image(BLOB), MANIFEST, tag="v1")),
        (r"^GET .*manifests", lambda: remote.manifest("v1")),
        (r"^HEAD .*manifests", lambda: remote.head(blob_of(image(BLOB)).descriptor.digest)),
    ):
        front.faults = [(where, lie, True)]
        error = refused(action)
        assert (error.id, error.exit) == ("registry-lies", Exit.VERIFY)
        assert other in error.message
        front.faults = []
        push(remote, BLOB)


def test_a_mount_of_another_blob(front: RegistryProxy, connect: Connect) -> None:
    push(connect(front.host, "team/base"), BLOB)
    front.faults = [(r"^POST ", claim(docker_content_digest="sha256:" + "0" * 64), True)]
    error = refused(lambda: push(connect(front.host), BLOB, mount_from=("team/base",)))
    assert error.id == "registry-lies"


def test_a_blob_of_another_size(front: RegistryProxy, connect: Connect) -> None:
    remote = connect(front.host)
    push(remote, BLOB)
    error = refused(lambda: remote.has(BLOB.descriptor.digest, 299_999))
    assert (error.id, error.exit) == ("registry-lies", Exit.VERIFY)


def test_bytes_flipped_on_the_way_there(front: RegistryProxy, connect: Connect) -> None:
    front.faults = [(r"^PATCH ", flip_sent, True)]
    remote = connect(front.host)
    error = refused(lambda: push(remote, BLOB))
    assert (error.id, error.exit) == ("wrong-hash", Exit.VERIFY)
    assert "DIGEST_INVALID" in error.message
    assert not remote.has(BLOB.descriptor.digest)


def test_bytes_flipped_on_the_way_back(front: RegistryProxy, connect: Connect) -> None:
    remote = connect(front.host)
    push(remote, BLOB, blob_of(b"{}"))
    made = remote.put_manifest(image(BLOB), MANIFEST, tag="v1")
    front.faults = [(r"^GET ", flip(20), True)]
    assert refused(lambda: remote.blob(BLOB.descriptor.digest, limit=1 << 20)).id == "wrong-hash"
    assert refused(lambda: remote.manifest(made.digest)).id == "wrong-hash"
    assert refused(lambda: remote.manifest("v1")).id == "registry-lies"


def test_a_manifest_whose_blobs_are_not_there(empty: int, connect: Connect) -> None:
    error = refused(lambda: connect(f"127.0.0.1:{empty}").put_manifest(image(BLOB), MANIFEST, tag="v1"))
    assert (error.id, error.exit) == ("blob-unknown", Exit.NETWORK)
    assert "MANIFEST_BLOB_UNKNOWN" in error.message


def test_a_name_that_the_registry_does_not_take(front: RegistryProxy, connect: Connect) -> None:
    front.faults = [(r"", refuse(400, "NAME_INVALID", "invalid repository name"), True)]
    error = refused(lambda: push(connect(front.host), BLOB))
    assert (error.id, error.exit) == ("bad-repository", Exit.USAGE)


def test_content_follows_no_redirect(front: RegistryProxy, connect: Connect) -> None:
    front.faults = [(r"^PATCH ", redirect(f"http://{front.host}"), True)]
    error = refused(lambda: push(connect(front.host), BLOB))
    assert "answered 307" in error.message


def test_too_many_requests(front: RegistryProxy, connect: Connect) -> None:
    front.faults = [(r"^POST ", refuse(429, "TOOMANYREQUESTS", "slow down", Retry_After="0"), True)]
    error = refused(lambda: push(connect(front.host), BLOB))
    assert (error.id, error.exit) == ("too-many-requests", Exit.NETWORK)
    assert "slow down" in error.message
    assert sum(call.startswith("POST") for call in front.calls) == 3


def test_pieces_too_large_for_a_proxy_between(front: RegistryProxy, connect: Connect) -> None:
    front.faults = [(r"^PATCH ", status(413), True)]
    error = refused(lambda: push(connect(front.host), BLOB))
    assert error.id == "too-large"


def test_what_is_not_there(empty: int, connect: Connect) -> None:
    remote = connect(f"127.0.0.1:{empty}")
    assert remote.head("v1") is None
    assert remote.head("sha256:" + "0" * 64) is None
    assert not remote.has("sha256:" + "0" * 64)
    assert remote.tags() == []
    error = refused(lambda: remote.manifest("v1"))
    assert (error.id, error.exit) == ("not-found", Exit.NETWORK)
    assert f"127.0.0.1:{empty}/team/app has no image v1" in error.message
    assert refused(lambda: remote.blob("sha256:" + "0" * 64, limit=10)).id == "not-found"


def test_a_blob_that_is_longer_than_wanted(empty: int, connect: Connect) -> None:
    remote = connect(f"127.0.0.1:{empty}")
    push(remote, BLOB)
    error = refused(lambda: remote.blob(BLOB.descriptor.digest, limit=1000))
    assert "more than 1000 bytes" in error.message


def test_answers_that_make_no_sense(front: RegistryProxy, modern: ModernRegistry, connect: Connect) -> None:
    remote = connect(front.host)
    front.faults = [(r"^POST ", lambda handler: handler.send(202, b""), True)]
    assert "no Location" in refused(lambda: push(remote, BLOB)).message
    front.faults = [(r"tags", lambda handler: handler.send(200, b"[]"), True)]
    assert "no JSON object" in refused(remote.tags).message
    modern.endless = True
    modern.manifest["v1"] = b"{}"
    assert "pages" in refused(connect(modern.host).tags).message


def test_errors_print_no_control_characters(front: RegistryProxy, connect: Connect) -> None:
    front.faults = [(r"^POST ", refuse(400, "WORSE", "\x1b[31mred\n\n" + "x" * 5000), True)]
    error = refused(lambda: push(connect(front.host), BLOB))
    assert "\x1b" not in error.message
    assert len(error.message) < 400
