"""Image references: what `docker pull` takes, with a digest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuild.errors import EnvbuildError, Exit
from envbuild.registry import base_address, parse_reference

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
