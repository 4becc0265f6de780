"""SSH logins into real containers: with keys, without, between containers; as root and as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from programsimage import Container, Image, docker

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.timeout(600)]
PUBLISH = ("-p", "127.0.0.1::22")
READY = "Server listening on 0.0.0.0"


def ssh(container: Container, key, command: str, *options: str, user: str = "root", port: int = 22):
    """OpenSSH's own client, from this machine; asks for nothing."""
    argv = ["ssh", *options, "-F", "none", "-p", str(container.port(port)), "-o", "BatchMode=yes"]
    argv += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    argv += ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i", str(key.private)]
    return subprocess.run(
        [*argv, f"{user}@127.0.0.1", command], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def served(image: Image, keys) -> Iterator[Container]:
    """A server as root, with the first key and a few variables."""
    odd = 'a "quoted" \\ back\'slash # $HOME %h  two'
    env = {
        "ENVBUILD_AUTHORIZED_KEYS": keys[0].public,
        "NCCL_P2P_DISABLE": "1",
        "CUDA_HOME": "/opt/cuda",
        "ODD": odd,
    }
    options = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
    options += ["-e", "LD_LIBRARY_PATH=/somewhere", "-e", "NVIDIA_VISIBLE_DEVICES=0", "-e", "MORE=one\ntwo"]
    with image.start(["envbuild-sshd"], *PUBLISH, *options) as container:
        container.wait_for(READY)
        yield container


@pytest.mark.parametrize("user", ["root", "envbuild"])
def test_a_key_lets_in(served: Container, keys, user: str) -> None:
    done = ssh(served, keys[0], "id -un", user=user)
    assert (done.returncode, done.stdout) == (0, f"{user}\n"), done.stderr + served.logs()


@pytest.mark.parametrize("user", ["root", "envbuild", "nobody"])
def test_another_key_does_not(served: Container, keys, user: str) -> None:
    done = ssh(served, keys[1], "true", user=user)
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


@pytest.mark.parametrize(
    "method", ["password", "keyboard-interactive", "gssapi-with-mic", "hostbased", "none"]
)
def test_nothing_but_keys_is_offered(served: Container, keys, method: str) -> None:
    options = ("-o", f"PreferredAuthentications={method}", "-o", "PubkeyAuthentication=no")
    done = ssh(served, keys[0], "true", *options)
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_no_account_has_a_password(served: Container) -> None:
    shadow = served.run("cat", "/etc/shadow").splitlines()
    assert {line.split(":")[1] for line in shadow} <= {"*", "!", "!!"}


def test_a_session_has_the_container_s_variables(served: Container, keys) -> None:
    done = ssh(served, keys[0], "env")
    have = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert have["PATH"].startswith("/opt/venv/bin:")
    assert have["NCCL_P2P_DISABLE"] == "1"
    assert have["CUDA_HOME"] == "/opt/cuda"
    assert have["LD_LIBRARY_PATH"] == "/somewhere"
    assert have["NVIDIA_VISIBLE_DEVICES"] == "0"
    assert have["ODD"] == 'a "quoted" \\ back\'slash # $HOME %h  two'
    assert have["HOME"] == "/root"
    assert "ENVBUILD_AUTHORIZED_KEYS" not in have
    assert "MORE" not in have
    assert "MORE has several lines" in served.logs()


def test_login_shells_find_the_image_s_python(served: Container, keys) -> None:
    done = ssh(served, keys[0], "bash -lc 'command -v python; echo $PATH'")
    python, path = done.stdout.splitlines()
    assert python == "/opt/venv/bin/python"
    assert path == ssh(served, keys[0], "echo $PATH").stdout.strip()


def test_files_can_be_copied(served: Container, keys, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("sent\n")
    options = ["-F", "none", "-P", str(served.port(22)), "-i", str(keys[0].private), "-o", "BatchMode=yes"]
    options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    subprocess.run(["scp", "-q", *options, tmp_path / "file", "root@127.0.0.1:/tmp/there"], check=True)
    assert served.run("cat", "/tmp/there") == "sent\n"


def test_the_image_has_no_host_keys_and_each_container_makes_its_own(
    image: Image, served: Container, keys
) -> None:
    assert image.run(["sh", "-c", "ls /etc/ssh | grep ssh_host_"]).stdout == ""
    env = ("-e", f"ENVBUILD_AUTHORIZED_KEYS={keys[0].public}")
    public = ["cat", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/ssh/ssh_host_ecdsa_key.pub"]
    with image.start(["envbuild-sshd"], *env) as other:
        other.wait_for(READY)
        theirs, ours = other.run(*public).splitlines(), served.run(*public).splitlines()
    assert len(set(theirs + ours)) == 4


def test_host_keys_in_a_volume_stay(image: Image, keys) -> None:
    volume = f"envbuild-test-{uuid.uuid4().hex}"
    options = ("-v", f"{volume}:/etc/ssh", "-e", f"ENVBUILD_AUTHORIZED_KEYS={keys[0].public}")
    seen = []
    try:
        for _ in range(2):
            with image.start(["envbuild-sshd"], *options) as container:
                container.wait_for(READY)
                seen.append(container.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub"))
    finally:
        docker("volume", "rm", "-f", volume)
    assert seen[0] == seen[1]


def test_keys_in_a_mounted_file_of_another_owner(image: Image, keys, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# mine\n{keys[0].public}")
    file.chmod(0o666)
    os.chown(file, 4242, 4242)
    for place in ("/etc/ssh/authorized_keys", "/root/.ssh/authorized_keys"):
        with image.start(["envbuild-sshd"], *PUBLISH, "-v", f"{file}:{place}:ro") as container:
            container.wait_for(READY)
            assert ssh(container, keys[0], "true").returncode == 0
            assert ssh(container, keys[1], "true").returncode == 255


def test_drop_ins_add_and_do_not_open(image: Image, keys, tmp_path: Path) -> None:
    (tmp_path / "mine.conf").write_text(
        "PasswordAuthentication yes\nPermitRootLogin yes\nBanner /etc/debian_version\n"
    )
    options = (
        "-v",
        f"{tmp_path}:/etc/ssh/sshd_config.d:ro",
        "-e",
        f"ENVBUILD_AUTHORIZED_KEYS={keys[0].public}",
    )
    with image.start(["envbuild-sshd"], *PUBLISH, *options) as container:
        container.wait_for(READY)
        assert "12." in ssh(container, keys[0], "true", "-o", "LogLevel=INFO").stderr
        refused = ssh(container, keys[1], "true", "-o", "PreferredAuthentications=password")
        assert "Permission denied (publickey)" in refused.stderr


def test_containers_with_fewer_rights(image: Image, keys) -> None:
    env = ("-e", f"ENVBUILD_AUTHORIZED_KEYS={keys[0].public}")
    refused = image.run(["envbuild-sshd"], *env, "--read-only")
    assert (refused.returncode, "--tmpfs /run" in refused.stderr) == (1, True)
    options = (
        *env,
        "--read-only",
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/tmp",
        "--security-opt",
        "no-new-privileges",
    )
    with image.start(["envbuild-sshd"], *PUBLISH, *options) as container:
        container.wait_for(READY)
        assert ssh(container, keys[0], "true").returncode == 0
        assert ssh(container, keys[0], "true", user="envbuild").returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "no authorized key"),
        (("-e", "ENVBUILD_AUTHORIZED_KEYS=ssh-ed25519 nonsense"), "line 1: no public key"),
        (("-e", "ENVBUILD_AUTHORIZED_KEYS=-----BEGIN OPENSSH PRIVATE KEY-----"), "holds a private key"),
        (("-e", "ENVBUILD_AUTHORIZED_KEYS_FILE=/etc"), "/etc is a folder"),
        (("-e", "ENVBUILD_AUTHORIZED_KEYS_FILE=/none"), "/none cannot be read"),
        (("-e", "ENVBUILD_SSH_PORT=ssh"), "'ssh' is no port"),
        (("-e", "ENVBUILD_SSH_PORT=65536"), "'65536' is no port"),
        (("--user", "4242"), "user 4242 has no account"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(image: Image, options: tuple[str, ...], said: str) -> None:
    done = image.run(["envbuild-sshd"], *options)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_with_the_server_behind_it(image: Image, keys) -> None:
    script = "ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null | cut -d' ' -f2; exit 7"
    env = ("-e", f"ENVBUILD_AUTHORIZED_KEYS={keys[0].public}")
    done = image.run(["envbuild-sshd", "--", "sh", "-c", script], *env)
    assert (done.returncode, done.stdout) == (7, "ssh-ed25519\n"), done.stderr
    wrong = image.run(["envbuild-sshd", "--", "no-such-program"], *env)
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (127, False)
    taken = "import socket, os; s = socket.socket(); s.bind(('', 22)); s.listen(); os.set_inheritable(s.fileno(), True)"
    taken += "; os.execvp('envbuild-sshd', ['envbuild-sshd', '--', 'true'])"
    busy = image.run(["python", "-c", taken], *env, "-e", "ENVBUILD_SSH_PORT=22")
    assert (busy.returncode, "port 22 is taken" in busy.stderr) == (1, True), busy.stderr
    assert "hint: " in busy.stderr


@contextmanager
def cluster(image: Image, private: Path, public: str, *options: str, home: str) -> Iterator[list[Container]]:
    """Two containers on a network of their own, which know each other's names and hold the private key."""
    network = f"envbuild-test-{uuid.uuid4().hex}"
    docker("network", "create", network)
    with ExitStack() as stack:
        stack.callback(docker, "network", "rm", network)
        nodes = []
        for name in ("node1", "node2"):
            node = ["--network", network, "--network-alias", name, "--hostname", name]
            node += ["-v", f"{private}:{home}/.ssh/id_ed25519:ro", "-e", f"ENVBUILD_AUTHORIZED_KEYS={public}"]
            node += ["-e", "ENVBUILD_SSH_CLUSTER=node1 node2", "-e", "NCCL_SOCKET_IFNAME=eth0"]
            start = image.start(["envbuild-sshd", "--", "sleep", "600"], *node, *options)
            nodes.append(stack.enter_context(start))
        for node in nodes:
            node.wait_for("in the background")
        yield nodes


def test_pdsh_from_one_container_to_two(image: Image, keys) -> None:
    with cluster(image, keys[0].private, keys[0].public, home="/root") as (first, _):
        told = first.run(
            "pdsh", "-w", "node1,node2", "echo $(hostname) $NCCL_SOCKET_IFNAME $(command -v python)"
        )
        assert sorted(told.splitlines()) == [
            "node1: node1 eth0 /opt/venv/bin/python",
            "node2: node2 eth0 /opt/venv/bin/python",
        ]
        assert first.run("ssh", "node2", "id -un") == "root\n"


def test_pdsh_as_an_ordinary_user(image: Image, keys, tmp_path: Path) -> None:
    private = tmp_path / "key"
    private.write_bytes(keys[0].private.read_bytes())
    private.chmod(0o600)
    os.chown(private, 1000, 1000)
    with cluster(image, private, keys[0].public, "--user", "envbuild", home="/home/envbuild") as (first, _):
        config = "/home/envbuild/.envbuild-sshd/ssh_config"
        assert first.run("ssh", "-F", config, "node2", "echo $(hostname) $(id -un)") == "node2 envbuild\n"
        told = first.run("sh", "-c", f"PDSH_SSH_ARGS_APPEND='-F {config}' pdsh -w node1,node2 hostname")
        assert sorted(told.splitlines()) == ["node1: node1", "node2: node2"]
        environ = first.run("sh", "-c", "tr '\\0' '\\n' </proc/$(pgrep -x sleep)/environ")
        assert f"PDSH_SSH_ARGS_APPEND=-F {config}" in environ


def test_without_the_cluster_variable_unknown_machines_are_not_trusted(image: Image, keys) -> None:
    with cluster(image, keys[0].private, keys[0].public, "-e", "ENVBUILD_SSH_CLUSTER=", home="/root") as (
        first,
        _,
    ):
        told = first.run("ssh", "-o", "BatchMode=yes", "node2", "true", check=False)
        assert "Host key verification failed" in told
