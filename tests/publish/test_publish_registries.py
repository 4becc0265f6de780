"""Publish to registries as they are: with accounts, with TLS, without; full, read-only, down; and mounts."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from authority import HOST, make_authority
from clirun import Cli, Done
from registry_proxy import RegistryProxy, expire, refuse
from registry_server import HTPASSWD, start_registry
from shop import Shop, free_port, run
from smallimage import REF

pytestmark = pytest.mark.network
DOCKER = "/usr/bin/docker"
BASIC = base64.b64encode(b"me:secret").decode()
HELPER = """#!/bin/sh
[ "$1" = get ] || exit 9
read host
echo '{"ServerURL":"x","Username":"me","Secret":"secret"}'
"""
BROKEN_HELPER = "#!/bin/sh\nexit 3\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants the password "secret" of "me"."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "htpasswd").write_text(HTPASSWD)
    process, port = start_registry(folder, htpasswd=folder / "htpasswd")
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


def account(shop: Shop, password: str = "secret") -> dict[str, str]:
    """The variables of an account with the shop's registry."""
    return {
        "ENVBUILD_REGISTRY": shop.repo,
        "ENVBUILD_REGISTRY_USER": "me",
        "ENVBUILD_REGISTRY_PASSWORD": password,
    }


def docker_config(shop: Shop, config: object) -> None:
    """What `docker login` leaves in the home."""
    folder = Path(shop.cli.env["HOME"]) / ".docker"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))


def helper(shop: Shop, text: str) -> dict[str, str]:
    """A credential helper, and the PATH with it."""
    docker_config(shop, {"credHelpers": {shop.host: "test"}})
    folder = shop.cli.folder / "bin"
    folder.mkdir()
    (folder / "docker-credential-test").write_text(text)
    (folder / "docker-credential-test").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("how", ["variables", "docker-login", "gitlab", "helper"])
def test_an_account(shop: Shop, guarded: str, how: str) -> None:
    there = replace(shop, host=guarded, path="team/accounts")
    env: dict[str, str] = {}
    if how == "variables":
        env = account(there)
    elif how == "docker-login":
        docker_config(there, {"auths": {guarded: {"auth": BASIC}}})
    elif how == "gitlab":
        env = {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {guarded: {"auth": BASIC}}})}
    else:
        env = helper(there, HELPER)
    done = there.publish("--by-digest", **env)
    assert (done.code, done.value["digest"]) == (0, shop.image.digest), done.err


def test_all_of_it_with_an_account(shop: Shop, guarded: str, tmp_path: Path) -> None:
    mine = replace(shop, host=guarded)
    mine = mine.with_env(**account(mine))
    assert mine.publish("--by-digest").code == 0
    promoted = mine.cli("promote", mine.pinned, "--verdict", str(mine.verdict()))
    assert promoted.code == 0, promoted.err
    assert mine.cli("verify", f"{mine.repo}:v1").code == 0
    pulled = mine.with_env(ENVBUILD_STORE=str(tmp_path / "far")).cli("pull", f"{mine.repo}:v1", "--json")
    assert pulled.value["digest"] == shop.image.digest, pulled.err


@pytest.mark.parametrize("how", ["none", "wrong", "wrong-login", "of-another"])
def test_no_account(shop: Shop, guarded: str, how: str) -> None:
    there = replace(shop, host=guarded)
    env: dict[str, str] = {}
    if how == "wrong":
        env = account(there, "guessed")
    elif how == "wrong-login":
        wrong = base64.b64encode(b"me:guessed").decode()
        docker_config(there, {"auths": {guarded: {"auth": wrong}}})
    elif how == "of-another":
        env = {**account(there, "guessed"), "ENVBUILD_REGISTRY": "registry.example.org/team"}
    publish = ["publish", REF, there.repo, "--allow-unverified"]
    commands = [publish] if how != "none" else [publish, ["pull", there.pinned], ["verify", there.pinned]]
    for command in commands:
        done = there.cli.fails(4, "not-allowed", *command, env=env)
        assert "docker login" in done.err
        assert "ENVBUILD_REGISTRY_PASSWORD" in done.err
        assert "guessed" not in done.err
        wanted = "asks for a password" if how in {"none", "of-another"} else "401"
        assert wanted in done.err


def test_accounts_that_cannot_be_had(shop: Shop, guarded: str) -> None:
    there = replace(shop, host=guarded)
    publish = ["publish", REF, there.repo, "--by-digest"]
    for env in (
        helper(there, BROKEN_HELPER),
        {"DOCKER_AUTH_CONFIG": "{"},
        {"ENVBUILD_REGISTRY_USER": "me", "ENVBUILD_REGISTRY_PASSWORD": "secret"},
        {"ENVBUILD_REGISTRY": there.repo, "ENVBUILD_REGISTRY_USER": "me"},
    ):
        done = there.cli.fails(2, "registry-credentials", *publish, env=env)
        assert "secret" not in done.err


def test_tokens_that_end_while_it_publishes(shop: Shop, front: RegistryProxy) -> None:
    """Before a layer, in the middle of layers, before the manifest and before the tag: each is asked for anew."""
    front.token, front.account = "first", "me:secret"
    there = replace(shop, host=front.host)
    ends = [r"^POST ", r"^PATCH ", rf"^PUT .*manifests/{shop.image.digest}", r"^PUT .*manifests/v1-candidate"]
    front.faults[:] = [(where, expire, False) for where in ends]
    done = there.publish("--allow-unverified", **account(there))
    assert done.code == 0, done.err
    assert front.faults == []
    assert front.token == "first" + "-new" * len(ends)
    assert shop.ask("manifests/v1-candidate") == shop.ask(f"manifests/{shop.image.digest}")
    assert {request["scope"] for request in front.token_requests} == {
        f"repository:{shop.path}:pull",
        f"repository:{shop.path}:pull,push",
    }


def test_a_ready_token_that_ends_while_it_publishes(shop: Shop, front: RegistryProxy) -> None:
    front.token = "first"
    there = replace(shop, host=front.host)
    ready = {"ENVBUILD_REGISTRY": there.repo, "ENVBUILD_REGISTRY_TOKEN": "first"}
    front.faults[:] = [(rf"^PUT .*manifests/{shop.image.digest}", expire, False)]
    publish = ["publish", REF, there.repo, "--allow-unverified"]
    done = there.cli.fails(4, "not-allowed", *publish, env=ready)
    assert "ENVBUILD_REGISTRY_TOKEN: it is wrong or has expired" in done.err
    assert "first" not in done.err
    assert shop.tags() == []
    again = there.publish("--allow-unverified", **{**ready, "ENVBUILD_REGISTRY_TOKEN": "first-new"})
    assert (again.code, again.value["bytes_sent"]) == (0, 0), again.err


@dataclass(frozen=True)
class Named(Cli):
    """The command line on a machine whose hosts file calls this one ``envbuild.test``."""

    def argv(self, *arguments: str) -> list[str]:
        hosts = self.folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ["unshare", "-rm", "sh", "-c", script, str(hosts), *super().argv(*arguments)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("authority") / "tls")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[int]:
    """The port of a registry with TLS."""
    folder = tmp_path_factory.mktemp("secure")
    process, port = start_registry(folder, certificate=(authority / "cert.pem", authority / "key.pem"))
    yield port
    process.terminate()
    process.wait()


@pytest.fixture
def named(shop: Shop) -> Shop:
    return replace(shop, cli=Named(folder=shop.cli.folder, env=shop.cli.env))


def test_tls_of_a_private_authority_and_who_else_reads_it(
    named: Shop, secure: int, authority: Path, tmp_path: Path
) -> None:
    """Written by envbuild, read and copied by skopeo, podman and Docker, and the copy is read by envbuild."""
    there = replace(named, host=f"{HOST}:{secure}")
    refused = there.cli.fails(4, "registry-failed", "publish", REF, there.repo, "--allow-unverified")
    assert "has a certificate that is not trusted" in refused.err
    assert "set SSL_CERT_FILE" in refused.err
    trusting = {"SSL_CERT_FILE": str(authority / "ca.pem")}
    assert there.publish("--allow-unverified", **trusting).code == 0

    certificates = tmp_path / "certificates"
    certificates.mkdir()
    shutil.copy(authority / "ca.pem", certificates / "ca.crt")
    source = f"127.0.0.1:{secure}/{named.path}"
    skopeo = ["skopeo", "copy", "-q", "--preserve-digests"]
    copy = f"dir:{tmp_path}/copy"
    run(*skopeo, f"--src-cert-dir={certificates}", f"docker://{source}:v1-candidate", copy)
    assert (tmp_path / "copy/manifest.json").read_bytes() == named.image.manifest_bytes
    run(*skopeo, f"--dest-cert-dir={certificates}", copy, f"docker://{source}/copy:v1")
    with tempfile.TemporaryDirectory() as short:  # podman takes no long --runroot
        podman = ["podman", "--root", f"{tmp_path}/podman", "--runroot", short]
        pull = ["pull", "-q", f"--cert-dir={certificates}", f"{source}:v1-candidate"]
        assert f"sha256:{run(*podman, *pull).strip()}" == named.image.config.digest
        run(*podman, "system", "reset", "--force")

    far = there.with_env(ENVBUILD_STORE=str(tmp_path / "far"), **trusting)
    done = far.cli("pull", f"{there.repo}/copy:v1", "--json")
    assert done.value["digest"] == named.image.digest, done.err
    assert (
        "TLS" in named.cli.fails(4, "registry-failed", "pull", f"{source}:v1-candidate").err
    )  # by its address


@pytest.mark.docker
def test_docker_pulls_from_the_registry_with_tls(named: Shop, secure: int, authority: Path) -> None:
    there = replace(named, host=f"{HOST}:{secure}")
    done = there.publish("--allow-unverified", SSL_CERT_FILE=str(authority / "ca.pem"))
    assert done.code == 0, done.err
    name = f"127.0.0.1:{secure}/{named.path}:v1-candidate"
    run(DOCKER, "pull", "-q", name)
    try:
        assert run(DOCKER, "run", "--rm", name, "demo-version").strip() == "1.0"
    finally:
        run(DOCKER, "image", "rm", "--force", name)


def test_plain_http_is_spoken_with_another_machine_where_that_is_said(named: Shop, secure: int) -> None:
    there = replace(named, host=f"{HOST}:{named.host.rpartition(':')[2]}")
    refused = there.cli.fails(4, "registry-failed", "publish", REF, there.repo, "--by-digest")
    assert "does not speak TLS" in refused.err
    assert "--plain-http or in ENVBUILD_PLAIN_HTTP" in refused.err
    assert there.publish("--by-digest", "--plain-http").code == 0
    for place in (there.host, f"other.example.org, {HOST}"):
        again = there.publish("--by-digest", ENVBUILD_PLAIN_HTTP=place)
        assert (again.code, again.value["bytes_sent"]) == (0, 0), again.err
    wrongly = replace(named, host=f"{HOST}:{secure}")
    done = wrongly.cli.fails(4, "registry-failed", "verify", wrongly.pinned, "--plain-http")
    assert "it speaks TLS, and was asked without" in done.err
    assert "leave out --plain-http" in done.err


def test_a_registry_that_is_read_only(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "read-only").mkdir()
    process, port = start_registry(tmp_path / "read-only", read_only=True)
    try:
        there = replace(shop, host=f"127.0.0.1:{port}")
        done = there.cli.fails(4, "registry-read-only", "publish", REF, there.repo, "--allow-unverified")
        assert "name another, or wait" in done.err
        assert there.tags() == []
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A registry with 20 MB of disk, for 37 MB of image; its folder and host."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "cramped"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder))
    process, port = start_registry(folder)
    yield folder, f"127.0.0.1:{port}"
    process.terminate()
    process.wait()
    run("umount", "-l", str(folder))


def test_a_registry_whose_disk_is_full_and_then_is_not(shop: Shop, cramped: tuple[Path, str]) -> None:
    folder, host = cramped
    there = replace(shop, host=host)
    done = there.cli.fails(4, "registry-full", "publish", REF, there.repo, "--allow-unverified")
    # Several go at once: whichever finds the disk full first is named, be it a small one that cannot begin.
    assert "has no room left" in done.err
    assert "free space in the registry" in done.err
    assert there.tags() == []
    assert there.ask(f"manifests/{shop.image.digest}") == 404
    run("mount", "-o", "remount,size=200m", str(folder))
    again = there.publish("--allow-unverified")
    assert again.code == 0, again.err
    assert there.tags() == ["v1-candidate"]


def test_a_registry_that_is_down(shop: Shop) -> None:
    """All at once: each waits some seconds before it gives up."""
    there = replace(shop, host=f"127.0.0.1:{free_port()}")
    commands = (
        ["publish", REF, there.repo, "--allow-unverified"],
        ["pull", there.pinned],
        ["verify", there.pinned],
        ["promote", there.pinned],
    )
    for done in at_once(there.cli, *commands):
        assert done.code == 4, done
        assert "error[registry-failed]" in done.err
        assert "cannot be reached" in done.err
        assert "Connection refused" in done.err
        assert "\n hint: " in done.err


def at_once(cli: Cli, *commands: list[str]) -> list[Done]:
    with ThreadPoolExecutor(max_workers=len(commands)) as pool:
        return list(pool.map(lambda command: cli(*command), commands))


def test_a_name_that_the_registry_does_not_take(shop: Shop, front: RegistryProxy) -> None:
    front.faults[:] = [("", refuse(400, "NAME_INVALID", "invalid repository name"), True)]
    there = replace(shop, host=front.host)
    done = there.cli.fails(2, "bad-repository", "publish", REF, there.repo, "--by-digest")
    assert "REGISTRY/OWNER/NAME" in done.err


def how(done: Done) -> set[str]:
    layers: list[dict[str, Any]] = done.value["layers"]
    return {layer["how"] for layer in layers}


def test_layers_are_mounted_from_another_repository(shop: Shop, shelf: Shop) -> None:
    """Named with the registry or without it; one that has nothing costs nothing but the question."""
    for number, name in enumerate((shelf.path, shelf.repo)):
        there = replace(shop, path=f"{shop.path}/{number}")
        done = there.publish("--by-digest", "--mount-from", "team/nothing", "--mount-from", name)
        assert (done.code, done.value["bytes_sent"], how(done)) == (0, 0, {"mounted"}), done.err
        assert there.ask(f"manifests/{shop.image.digest}")["config"]["digest"] == shop.image.config.digest
    alone = replace(shop, path=f"{shop.path}/alone").publish("--by-digest", "--mount-from", "team/nothing")
    assert how(alone) == {"uploaded"}


@pytest.mark.parametrize("name", ["Team/App", "../etc", "team/app:v1", "other.example.org:5000/team", ""])
def test_what_layers_cannot_be_mounted_from(shop: Shop, name: str) -> None:
    there = replace(shop, path="team/mounts")
    publish = ["publish", REF, there.repo, "--by-digest", "--mount-from", name]
    done = there.cli.fails(2, "bad-repository", *publish)
    assert f"{shop.host}/REPOSITORY" in done.err
