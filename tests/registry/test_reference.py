"""Names of repositories and images: what `docker pull` takes, and what a registry must be named by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuild.errors import EnvbuildError, Exit
from envbuild.registry import (
    ImageName,
    Repository,
    base_address,
    is_image_name,
    parse_image_name,
    parse_reference,
    parse_repository,
)

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ghcr.io/team/app", "https://ghcr.io/v2/team/app"),
        ("ghcr.io/team/app:v1", "https://ghcr.io/v2/team/app"),
        ("registry.example.org:5000/a/b/c", "https://registry.example.org:5000/v2/a/b/c"),
        ("localhost/app", "http://localhost/v2/app"),
        ("localhost:5000/app", "http://localhost:5000/v2/app"),
        ("127.0.0.1:5000/app", "http://127.0.0.1:5000/v2/app"),
        ("[::1]:5000/app", "http://[::1]:5000/v2/app"),
        ("10.0.0.1:5000/app", "https://10.0.0.1:5000/v2/app"),
        ("nvidia/cuda:12.6.3-base-ubuntu24.04", "https://registry-1.docker.io/v2/nvidia/cuda"),
        ("debian:12", "https://registry-1.docker.io/v2/library/debian"),
        ("docker.io/debian", "https://registry-1.docker.io/v2/library/debian"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    reference = parse_reference(f"{text}@{DIGEST}")
    assert base_address(reference.repository, {}) == address
    assert reference.digest == DIGEST
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize("text", ["debian", "debian:12", "ghcr.io/team/app:v1", "localhost:5000/a"])
def test_a_tag_alone_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        parse_reference(text)
    assert (caught.value.id, caught.value.exit) == ("base-without-digest", Exit.USAGE)
    assert f"{text}@sha256:" in caught.value.hint
    assert f"skopeo inspect --format '{{{{.Digest}}}}' docker://{text}" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        f"Upper/Case@{DIGEST}",
        f"@{DIGEST}",
        f"a b@{DIGEST}",
        f"https://ghcr.io/a@{DIGEST}",
        f"ghcr.io/../a@{DIGEST}",
        f"ghcr.io/a:bad tag@{DIGEST}",
        f"me:pw@ghcr.io/a@{DIGEST}",
        "debian@sha256:abc",
        "debian@sha256:" + "AB" * 32,
        "debian@md5:" + "a" * 32,
        "debian@" + DIGEST + "\n",
        "",
    ],
)
def test_what_is_not_a_reference_is_refused(text: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        parse_reference(text)
    assert caught.value.exit == Exit.USAGE


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        reference = parse_reference(f"{text}@{DIGEST}")
    except EnvbuildError as error:
        assert error.id == "bad-image-reference"  # noqa: PT017 - most texts are refused, some are read
    else:
        assert parse_reference(str(reference)) == reference
        assert " " not in base_address(reference.repository, {})


@pytest.mark.parametrize(
    "text",
    [
        "ghcr.io/team/app",
        "127.0.0.1:5000/app",
        "localhost/a/b/c",
        "[::1]:5000/app",
        "docker.io/team/app",
        "registry.example.org:5000/a__b/c.d-e",
    ],
)
def test_repositories(text: str) -> None:
    repository = parse_repository(text)
    assert str(repository) == text
    registry, _, path = text.partition("/")
    assert repository == Repository(registry, path)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("ghcr.io/team/app:v1", "names a tag or a digest", "ghcr.io/team/app"),
        (f"ghcr.io/team/app@{DIGEST}", "names a tag or a digest", "ghcr.io/team/app"),
        ("team/app", "names no registry", "REGISTRY/team/app"),
        ("app", "names no registry", "REGISTRY/app"),
        ("", "names no registry", "REGISTRY/REPOSITORY"),
        ("ghcr.io/Team/App", "is not the name of a repository", "lower-case"),
        ("ghcr.io/", "names a registry and no repository", "ghcr.io/REPOSITORY"),
        ("127.0.0.1:5000", "names a registry and no repository", "127.0.0.1:5000/REPOSITORY"),
        ("https://ghcr.io/team/app", "is an address", "without http:// or https://"),
        ("ghcr.io/../etc", "is not the name of a repository", "REGISTRY/REPOSITORY"),
        ("me:pw@ghcr.io/team/app", "", "REGISTRY/"),
    ],
)
def test_what_is_no_repository_is_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        parse_repository(text)
    assert (caught.value.id, caught.value.exit) == ("bad-repository", Exit.USAGE)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_image_names() -> None:
    repository = Repository("127.0.0.1:5000", "team/img")
    for text, name, reference in (
        ("127.0.0.1:5000/team/img:v2.7", ImageName(repository, "v2.7"), "v2.7"),
        (f"127.0.0.1:5000/team/img@{DIGEST}", ImageName(repository, None, DIGEST), DIGEST),
        (f"127.0.0.1:5000/team/img:v2.7@{DIGEST}", ImageName(repository, "v2.7", DIGEST), DIGEST),
    ):
        assert is_image_name(text)
        assert parse_image_name(text) == name
        assert str(name) == text
        assert name.reference == reference


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:5000/team/img",
        "img:v1",
        "team/img:v1",
        "ghcr.io/a:bad tag",
        "ghcr.io/a:",
        "ghcr.io/a@sha256:1",
    ],
)
def test_what_is_no_image_name_is_refused(text: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        parse_image_name(text)
    assert (caught.value.id, caught.value.exit) == ("bad-image-reference", Exit.USAGE)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["pytorch-cuda:v2.7", "pytorch-cuda", "team/app:v1", "./recipes/x", "../x", "", "/a.b/c", "a.b/"]
)
def test_what_is_not_in_a_registry(text: str) -> None:
    assert not is_image_name(text)


@pytest.mark.parametrize(
    ("host", "named", "scheme"),
    [
        ("10.0.0.1:5000", "", "https"),
        ("10.0.0.1:5000", "10.0.0.1:5000", "http"),
        ("10.0.0.1:5000", "10.0.0.1", "http"),
        ("10.0.0.1:5000", "10.0.0.1:5001", "https"),
        ("registry.lan", "other.lan, Registry.LAN ,", "http"),
        ("registry.lan.example.org", "registry.lan", "https"),
        ("localhost:5000", "", "http"),
        ("docker.io", "", "https"),
    ],
)
def test_plain_http_is_for_this_machine_and_who_is_named(host: str, named: str, scheme: str) -> None:
    address = base_address(parse_repository(f"{host}/team/app"), {"ENVBUILD_PLAIN_HTTP": named})
    assert address.startswith(f"{scheme}://")


@given(st.text(max_size=60))
def test_any_text_is_an_image_name_or_not(text: str) -> None:
    try:
        name = parse_image_name(text)
    except EnvbuildError as error:
        assert error.id == "bad-image-reference"  # noqa: PT017 - most texts are refused, some are read
    else:
        assert is_image_name(text)
        assert parse_image_name(str(name)) == name


@pytest.mark.parametrize(
    "text", ["me:pw@registry.example.org/team/app", "https://me:pw@registry.example.org/app"]
)
def test_a_password_that_somebody_wrote_into_a_name_is_not_printed(text: str) -> None:
    for parse in (parse_repository, parse_image_name):
        with pytest.raises(EnvbuildError) as refusal:
            parse(text)
        told = f"{refusal.value.message} {refusal.value.where} {refusal.value.hint}"
        assert "pw" not in told
        assert "registry.example.org" in told
