"""Credentials as `docker login` and `podman login` leave them, credential helpers included."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.registry.credentials import Credentials, find_credentials
from envbuild.registry.reference import parse_reference

HOST = "registry.example.org"
HELPER = """#!/bin/sh
[ "$1" = get ] || exit 9
read host
case "$host" in
  registry.example.org) echo '{"ServerURL":"x","Username":"ann","Secret":"from helper"}' ;;
  token.example.org) echo '{"ServerURL":"x","Username":"<token>","Secret":"identity"}' ;;
  odd.example.org) echo 'no json' ;;
  broken.example.org) exit 3 ;;
  *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a helper ``docker-credential-test`` on PATH."""
    (tmp_path / "bin").mkdir()
    helper = tmp_path / "bin" / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    (tmp_path / ".docker").mkdir()
    return tmp_path


def find(home: Path, config: object, host: str = HOST) -> Credentials | None:
    (home / ".docker" / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    environ = {"HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    return find_credentials([host, f"https://{host}"], environ)


def pair(found: Credentials | None) -> tuple[str, str] | None:
    return None if found is None else (found.user, found.password)


def test_auths(home: Path) -> None:
    assert pair(find(home, {"auths": {HOST: {"auth": auth("ann:pa:ss")}}})) == ("ann", "pa:ss")
    assert pair(find(home, {"auths": {f"https://{HOST}": {"auth": auth("ann:x")}}})) == ("ann", "x")
    assert pair(find(home, {"auths": {HOST: {"username": "ann", "password": "y"}}})) == ("ann", "y")
    assert find(home, {"auths": {"other.example.org": {"auth": auth("ann:x")}}}) is None
    assert find(home, {"auths": {HOST: {}}}) is None
    assert find(home, {}) is None


def test_a_helper_for_the_host_and_a_store_for_all(home: Path) -> None:
    assert pair(find(home, {"credHelpers": {HOST: "test"}})) == ("ann", "from helper")
    assert pair(find(home, {"credsStore": "test"})) == ("ann", "from helper")
    assert find(home, {"credsStore": "test"}, "unknown.example.org") is None
    config = {"credsStore": "test", "auths": {"unknown.example.org": {"auth": auth("a:b")}}}
    assert pair(find(home, config, "unknown.example.org")) == ("a", "b")


def test_an_identity_token_is_told_apart(home: Path) -> None:
    found = find(home, {"credsStore": "test"}, "token.example.org")
    assert found is not None
    assert found.identity_token == "identity"
    assert "identity" not in repr(found)


@pytest.mark.parametrize(
    ("config", "host"),
    [
        ("{", HOST),
        ({"auths": {HOST: {"auth": "%%%"}}}, HOST),
        ({"credsStore": "missing"}, HOST),
        ({"credsStore": "test"}, "odd.example.org"),
        ({"credsStore": "test"}, "broken.example.org"),
    ],
)
def test_what_cannot_be_read_is_named(home: Path, config: object, host: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        find(home, config, host)
    assert (caught.value.id, caught.value.exit) == ("registry-credentials", Exit.USAGE)
    assert str(home / ".docker" / "config.json") in caught.value.message


def test_the_files_are_asked_in_order(home: Path) -> None:
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {HOST: {"auth": auth("docker:1")}}}))
    (home / "auth.json").write_text(json.dumps({"auths": {HOST: {"auth": auth("file:1")}}}))
    (home / "run" / "containers").mkdir(parents=True)
    (home / "run" / "containers" / "auth.json").write_text(
        json.dumps({"auths": {"p.org": {"auth": auth("podman:1")}}})
    )
    environ = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
    assert pair(find_credentials([HOST], environ)) == ("docker", "1")
    assert pair(find_credentials([HOST], {**environ, "REGISTRY_AUTH_FILE": str(home / "auth.json")})) == (
        "file",
        "1",
    )
    assert pair(find_credentials(["p.org"], environ)) == ("podman", "1")
    assert find_credentials([HOST], {}) is None


def test_docker_hub_has_a_name_of_its_own(home: Path) -> None:
    accounts = parse_reference("debian@sha256:" + "0" * 64).repository.accounts
    (home / ".docker" / "config.json").write_text(
        json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": auth("hub:1")}}})
    )
    assert pair(find_credentials(accounts, {"HOME": str(home)})) == ("hub", "1")


def test_variables_come_first_and_for_one_registry_only(home: Path) -> None:
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {HOST: {"auth": auth("docker:1")}}}))
    config = json.dumps({"auths": {HOST: {"auth": auth("text:1")}, "p.org": {"auth": auth("text:2")}}})
    environ = {"HOME": str(home)}
    assert pair(find_credentials([HOST], environ)) == ("docker", "1")
    environ["DOCKER_AUTH_CONFIG"] = config
    assert pair(find_credentials([HOST], environ)) == ("text", "1")
    environ |= {
        "ENVBUILD_REGISTRY": f"{HOST}/team/app",
        "ENVBUILD_REGISTRY_USER": "ci",
        "ENVBUILD_REGISTRY_PASSWORD": "pw",
    }
    assert pair(find_credentials([HOST], environ)) == ("ci", "pw")
    assert pair(find_credentials(["p.org"], environ)) == ("text", "2")
    assert find_credentials(["q.org"], environ) is None
    hub = parse_reference("debian@sha256:" + "0" * 64).repository.accounts
    assert pair(find_credentials(hub, {**environ, "ENVBUILD_REGISTRY": "docker.io/team/app"})) == ("ci", "pw")


def test_a_text_that_is_no_config_is_named(home: Path) -> None:
    with pytest.raises(EnvbuildError, match="DOCKER_AUTH_CONFIG is not JSON"):
        find_credentials([HOST], {"HOME": str(home), "DOCKER_AUTH_CONFIG": "{"})


def test_a_ready_token_is_never_printed() -> None:
    found = find_credentials(
        [HOST], {"ENVBUILD_REGISTRY": f"{HOST}/team/app", "ENVBUILD_REGISTRY_TOKEN": "opaque"}
    )
    assert found is not None
    assert found.bearer == "opaque"
    assert "opaque" not in repr(found)
