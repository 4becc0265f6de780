"""The programs in the real image, started by the engines that need no Docker."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from realimage import REF, ROOT, Real

pytestmark = [pytest.mark.real, pytest.mark.network]
ENGINES = ("sandbox", "oci")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def until_it_listens(port: int) -> None:
    ends = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < ends, f"nothing listens on {port}"
            time.sleep(0.2)


@contextmanager
def running(
    real: Real, log: Path, engine: str, env: dict[str, str], *argv: str, until: str
) -> Iterator[None]:
    """``envbuild run`` in the background, until what it printed matches ``until``; ended afterwards."""
    command = [sys.executable, "-m", "envbuild", "run", "--store", str(real.store), "--engine", engine, REF]
    command += [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
    with log.open("w") as stream:
        process = subprocess.Popen([*command, "--", *argv], cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT)
    try:
        ends = time.monotonic() + 120
        while not re.search(until, log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(60)


def test_the_doctor_knows_its_image_and_its_torch(real: Real) -> None:
    done = real.envbuild("run", "--engine", "sandbox", REF, "--", "envbuild-doctor", "--json", check=False)
    document = json.loads(done.stdout)
    rows = {row["id"]: row for row in document["findings"]}
    assert document["image"]["ref"] == REF
    assert rows["torch"]["facts"]["version"].startswith("2.7.1")
    assert "sm_90" in rows["torch"]["facts"]["architectures"]
    assert rows["shared-memory"]["state"] == "good"
    assert done.returncode == (0 if document["fits"] else 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_jupyter_lets_in_who_has_the_token(real: Real, tmp_path: Path, engine: str) -> None:
    port, log = free_port(), tmp_path / "log"
    with running(real, log, engine, {"JUPYTER_PORT": str(port)}, "envbuild-jupyter", until="is running at"):
        (token,) = re.findall(r"token=([0-9a-f]{48})", log.read_text())
        until_it_listens(port)  # which is after it has said that it runs
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        page = f"http://127.0.0.1:{port}/api/contents"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener.open(page, timeout=30)
        assert opener.open(f"{page}?token={token}", timeout=30).status == 200


@pytest.mark.parametrize("engine", ENGINES)
def test_ssh_lets_in_who_has_the_key(real: Real, tmp_path: Path, engine: str) -> None:
    for name in ("mine", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    port = free_port()
    env = {
        "ENVBUILD_SSH_PORT": str(port),
        "ENVBUILD_AUTHORIZED_KEYS": (tmp_path / "mine.pub").read_text(),
        "NCCL_P2P_DISABLE": "1",
    }

    def ssh(key: str, user: str) -> subprocess.CompletedProcess[str]:
        options = [
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
        ]
        argv = ["ssh", "-F", "none", "-p", str(port), "-i", str(tmp_path / key)]
        argv += [word for option in options for word in ("-o", option)]
        script = "id -un; echo $NCCL_P2P_DISABLE; python -c 'import torch; print(torch.__version__)'"
        return subprocess.run(
            [*argv, f"{user}@127.0.0.1", script], capture_output=True, text=True, check=False, timeout=120
        )

    with running(real, tmp_path / "log", engine, env, "envbuild-sshd", until="Server listening"):
        for user in ("root", "envbuild"):
            assert ssh("mine", user).stdout.split() == [user, "1", "2.7.1+cu126"]
            assert "Permission denied (publickey)" in ssh("other", user).stderr
