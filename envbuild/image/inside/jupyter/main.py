"""The command line of envbuild-jupyter: works out JupyterLab's arguments, then becomes it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

WORKSPACE = Path("/workspace")
PORT = "8888"
DEFAULTS = {
    "ip": ("0.0.0.0", ("--ip", "--ServerApp.ip")),  # noqa: S104 -- a container's ports are shut until docker run -p
    "port": (PORT, ("--port", "--ServerApp.port")),
    "port_retries": ("0", ("--port-retries", "--ServerApp.port_retries")),
    "root_dir": (
        str(WORKSPACE),
        ("--notebook-dir", "--ServerApp.root_dir", "--ServerApp.notebook_dir", "--preferred-dir"),
    ),
    "open_browser": ("False", ("--no-browser", "--browser", "--ServerApp.open_browser")),
}
"""What is set unless an argument does: the value, and the arguments that set it (jupyter lab --help-all)."""

_AUTHENTICATION = re.compile(
    r"--(IdentityProvider|ServerApp|NotebookApp|PasswordIdentityProvider)\.\w*(token|password)\w*(=|$)"
)

HELP = """\
usage: envbuild-jupyter [ARGUMENTS OF jupyter lab]...

JupyterLab on port 8888 of every interface, with a token, in /workspace:

  docker run --gpus all -p 8888:8888 -v "$PWD":/workspace IMAGE envbuild-jupyter

variables:
  JUPYTER_TOKEN       the token; without it one is made at each start and printed once
  JUPYTER_TOKEN_FILE  a file that holds it

Arguments go to `jupyter lab` (its own help: jupyter lab --help) and win over what is set here. It is never open
without a token, unless an argument says so (--IdentityProvider.token='').

exit status: JupyterLab's; 2 wrong usage, 127 the image has no JupyterLab
"""


def main(arguments: Sequence[str]) -> int:
    """Print where to go, then become ``jupyter lab``."""
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(HELP)
        return 0
    program = shutil.which("jupyter-lab")
    if program is None:
        return _refuse(
            "there is no JupyterLab in this image", 'build it from a recipe with parts = ["jupyter"]', 127
        )
    environ = dict(os.environ)
    try:
        told = _authentication(arguments, environ)
    except (OSError, ValueError) as error:
        return _refuse(f"the token file: {error}", "JUPYTER_TOKEN_FILE names a file that holds the token")
    _home(environ)
    environ.setdefault("SHELL", "/bin/bash")  # what its terminals start
    port = value_of(arguments, DEFAULTS["port"][1]) or environ.get("JUPYTER_PORT") or PORT
    _say(f"http://127.0.0.1:{port}/lab{told}")
    _say(f"(with docker run -p {port}:{port}; this container is {socket.gethostname()})")
    os.chdir(WORKSPACE if WORKSPACE.is_dir() else "/")
    return _become([program, *server_arguments(arguments, environ, root=os.getuid() == 0)], environ)


def _become(command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    os.execve(command[0], list(command), environ)


def server_arguments(arguments: Sequence[str], environ: Mapping[str, str], *, root: bool) -> list[str]:
    """JupyterLab's arguments: the defaults that no argument and no variable sets, then the given ones.

    Root is allowed as root only, because a container's user is root by default.
    """
    added = []
    for name, (value, flags) in DEFAULTS.items():
        if value_of(arguments, flags) is None and not (name == "port" and environ.get("JUPYTER_PORT")):
            added.append(f"--ServerApp.{name}={value}")
    if root and value_of(arguments, ("--allow-root", "--ServerApp.allow_root")) is None:
        added.append("--allow-root")
    return [*added, *arguments]


def value_of(arguments: Sequence[str], flags: Sequence[str]) -> str | None:
    """What the arguments say for one of ``flags``: ``--port=1``, ``--port 1``, or empty for a bare flag."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in flags:
            following = arguments[place + 1] if place + 1 < len(arguments) else ""
            return value if equals else "" if following.startswith("-") else following
    return None


def _authentication(arguments: Sequence[str], environ: dict[str, str]) -> str:
    """Make sure of a token, and return what to add to the address: the token only if it was made here.

    Jupyter reads JUPYTER_TOKEN itself, so the token is in no process's arguments. An empty one counts as none.
    """
    if any(_AUTHENTICATION.match(argument) for argument in arguments):
        return "  (who may come in is as your arguments say)"
    file = environ.get("JUPYTER_TOKEN_FILE")
    if environ.get("JUPYTER_TOKEN", "").strip():
        return "?token=<JUPYTER_TOKEN>"
    if file:
        token = Path(file).read_text().strip()
        if not token:
            raise ValueError(f"{file} is empty")
        environ["JUPYTER_TOKEN"] = token
        return f"?token=<what {file} holds>"
    environ["JUPYTER_TOKEN"] = secrets.token_hex(24)
    return f"?token={environ['JUPYTER_TOKEN']}"


def _home(environ: dict[str, str]) -> None:
    """A home that can be written: ``docker run --user 12345`` has ``/``, and Jupyter keeps its state there."""
    home = environ.get("HOME", "/")
    if not os.access(home, os.W_OK):
        environ["HOME"] = tempfile.mkdtemp(prefix="envbuild-jupyter-")
        _say(f"{home} cannot be written: settings are kept in {environ['HOME']} until the container ends")


def _refuse(message: str, hint: str, status: int = 2) -> int:
    _say(message)
    _say(f"hint: {hint}")
    return status


def _say(text: str) -> None:
    print(f"envbuild-jupyter: {text}", file=sys.stderr, flush=True)
