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
DEFAULTS = Path(__file__).parent
"""The folder of jupyter_server_config.json: every interface (a container's ports are shut until ``docker run -p``), no
browser, and no other port when 8888 is taken. It is given to Jupyter as the last of its folders, so that every other
configuration file and every argument wins."""

SYSTEM = ("/opt/venv/etc/jupyter", "/usr/local/etc/jupyter", "/etc/jupyter")
"""Where Jupyter looks besides (jupyter --paths)."""

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
    environ["JUPYTER_CONFIG_PATH"] = config_path(environ)
    port = value_of(arguments, ("--port", "--ServerApp.port")) or environ.get("JUPYTER_PORT") or PORT
    _say(f"http://127.0.0.1:{port}/lab{told}")
    _say(f"(with docker run -p {port}:{port}; this container is {socket.gethostname()})")
    os.chdir(WORKSPACE if WORKSPACE.is_dir() else "/")
    return _become([program, *server_arguments(arguments, root=os.getuid() == 0)], environ)


def _become(command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    os.execve(command[0], list(command), environ)


def server_arguments(arguments: Sequence[str], *, root: bool) -> list[str]:
    """JupyterLab's arguments. Root is allowed to root alone: a container's user is root by default."""
    given = any(
        argument.partition("=")[0] in ("--allow-root", "--ServerApp.allow_root") for argument in arguments
    )
    return [*(["--allow-root"] if root and not given else []), *arguments]


def config_path(environ: Mapping[str, str]) -> str:
    """Jupyter's folders of configuration, the strongest first: the caller's, the user's, the system's, `DEFAULTS`."""
    user = environ.get("JUPYTER_CONFIG_DIR") or f"{environ.get('HOME', '/root')}/.jupyter"
    given = environ.get("JUPYTER_CONFIG_PATH", "")
    return ":".join([*([given] if given else []), user, *SYSTEM, str(DEFAULTS)])


def value_of(arguments: Sequence[str], flags: Sequence[str]) -> str | None:
    """What the arguments say for one of ``flags``: ``--port=1`` or ``--port 1``."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in flags:
            return value if equals else "".join(arguments[place + 1 : place + 2])
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
