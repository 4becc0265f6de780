"""JupyterLab in real containers: who is let in, who runs it, what plain `jupyter lab` does."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request

import pytest
from programsimage import Container, Image, docker

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.timeout(600)]
PUBLISH = ("-p", "127.0.0.1::8888")
READY = "is running at"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def ask(container: Container, path: str, token: str = "", port: int = 8888) -> tuple[int, str]:
    """Status and body of a page, redirects not followed."""
    request = urllib.request.Request(f"http://127.0.0.1:{container.port(port)}{path}")
    if token:
        request.add_header("Authorization", f"token {token}")
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    until = time.monotonic() + 60
    while True:
        try:
            with opener.open(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            assert time.monotonic() < until, container.logs()
            time.sleep(0.3)


def test_a_token_is_made_and_only_who_has_it_comes_in(image: Image) -> None:
    with image.start(["envbuild-jupyter"], *PUBLISH) as one, image.start(["envbuild-jupyter"]) as two:
        told = one.wait_for(READY)
        (token,) = re.findall(r"token=([0-9a-f]{48})", told)
        assert told.count(token) == 1
        assert ask(one, "/api/contents")[0] == 403
        assert ask(one, "/lab")[0] == 302
        assert ask(one, "/api/contents", "0" * 48)[0] == 403
        assert ask(one, "/api/contents", token)[0] == 200
        status, page = ask(one, f"/lab?token={token}")
        assert (status, "<title>JupyterLab</title>" in page) == (200, True)
        assert token not in one.run("ps", "ax", "-o", "args")
        assert token not in two.wait_for(READY)


@pytest.mark.parametrize("user", ["root", "envbuild", "12345:12345"])
def test_the_token_of_the_caller_for_any_user(image: Image, user: str) -> None:
    with image.start(["envbuild-jupyter"], *PUBLISH, "--user", user, "-e", "JUPYTER_TOKEN=of-mine") as one:
        assert ask(one, "/api/contents")[0] == 403
        assert ask(one, "/api/contents", "of-mine")[0] == 200
        assert "of-mine" not in one.wait_for(READY)
        serving = one.run("ps", "ax", "-o", "user,args")
        assert ("--allow-root" in serving) == (user == "root")


def test_an_empty_token_is_none(image: Image) -> None:
    with image.start(["envbuild-jupyter"], *PUBLISH, "-e", "JUPYTER_TOKEN=") as one:
        assert re.search(r"token=[0-9a-f]{48}", one.wait_for(READY))
        assert ask(one, "/api/contents")[0] == 403


def test_a_token_file(image: Image, tmp_path) -> None:
    (tmp_path / "token").write_text("in-a-file\n")
    mount = ("-v", f"{tmp_path}:/run/secrets:ro", "-e", "JUPYTER_TOKEN_FILE=/run/secrets/token")
    with image.start(["envbuild-jupyter"], *PUBLISH, *mount) as one:
        assert ask(one, "/api/contents")[0] == 403
        assert ask(one, "/api/contents", "in-a-file")[0] == 200
    (tmp_path / "token").write_text("")
    done = image.run(["envbuild-jupyter"], *mount)
    assert done.returncode == 2
    assert "/run/secrets/token is empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_arguments_and_configuration_files_win(image: Image, tmp_path) -> None:
    (tmp_path / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": {"root_dir": "/opt", "port": 9999}})
    )
    options = ("-p", "127.0.0.1::9000", "-v", f"{tmp_path}:/root/.jupyter:ro", "-e", "JUPYTER_TOKEN=t")
    with image.start(["envbuild-jupyter", "--port=9000"], *options) as one:
        status, body = ask(one, "/api/contents", "t", 9000)
        assert status == 200
        assert "venv" in [entry["name"] for entry in json.loads(body)["content"]]
        assert "http://127.0.0.1:9000/lab" in one.logs()


def test_no_token_needs_an_explicit_argument(image: Image) -> None:
    with image.start(["envbuild-jupyter", "--IdentityProvider.token="], *PUBLISH) as one:
        assert ask(one, "/api/contents")[0] == 200
        assert "who may come in is as your arguments say" in one.logs()


def test_a_notebook_runs_in_the_image_s_python(image: Image, tmp_path) -> None:
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "id": "a",
                "execution_count": None,
                "metadata": {},
                "outputs": [],
                "source": "import os, sys; print(sys.prefix, os.getcwd())",
            }
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))
    done = image.run(
        ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdout", "a.ipynb"],
        "-v",
        f"{tmp_path}:/workspace",
    )
    assert "/opt/venv /workspace" in done.stdout, done.stderr


def test_plain_jupyter_lab_as_tutorials_write_it(image: Image) -> None:
    command = ["jupyter", "lab", "--ip", "0.0.0.0", "--allow-root", "--no-browser"]
    with image.start(command, *PUBLISH) as one:
        (token,) = set(re.findall(r"token=([0-9a-f]{48})", one.wait_for(READY)))
        assert ask(one, "/api/contents")[0] == 403
        assert ask(one, "/api/contents", token)[0] == 200


def test_a_port_that_is_taken_is_an_error_and_not_another_port(image: Image) -> None:
    busy = "s = socket.socket(); s.bind(('', 8888)); s.listen(); os.set_inheritable(s.fileno(), True)"
    script = f"import socket, os; {busy}; os.execvp('envbuild-jupyter', ['envbuild-jupyter'])"
    done = image.run(["python", "-c", script])
    assert done.returncode != 0
    assert "port 8888 is already in use" in done.stdout + done.stderr


def test_stopping_the_container_stops_it_at_once(image: Image) -> None:
    with image.start(["envbuild-jupyter"]) as one:
        one.wait_for(READY)
        docker("stop", "--time", "30", one.name)
        assert docker("inspect", "-f", "{{.State.ExitCode}}", one.name).stdout.strip() == "0"


def test_help_says_how(image: Image) -> None:
    done = image.run(["envbuild-jupyter", "--help"])
    assert done.returncode == 0
    assert "JUPYTER_TOKEN" in done.stdout
