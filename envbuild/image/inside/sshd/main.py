"""The command line of envbuild-sshd."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from . import config, keys
from .settings import CLUSTER, PORT, SSH, Refusal, Settings, settings

SSHD = "/usr/sbin/sshd"
SEPARATION = Path("/run/sshd")
START = 15.0

HELP = """\
OpenSSH's server, for debugging and for training on several machines. Keys only: no password is ever asked for.

  docker run -p 2222:22 -e ENVBUILD_AUTHORIZED_KEYS="$(cat ~/.ssh/id_ed25519.pub)" IMAGE envbuild-sshd
  docker run ... IMAGE envbuild-sshd -- python train.py      the server in the background, the command in front

variables:
  ENVBUILD_AUTHORIZED_KEYS       public keys, as text
  ENVBUILD_AUTHORIZED_KEYS_FILE  a file of public keys (default: /etc/ssh/authorized_keys where it is there)
  ENVBUILD_SSH_PORT              default 22; 2222 as an ordinary user
  ENVBUILD_SSH_CLUSTER           names of the other machines, or 1: ssh from here takes their keys when first seen

exit status: the server's or the command's; 1 the server does not start, 2 wrong usage
"""


def main(arguments: Sequence[str]) -> int:
    """Write keys and configuration, then become the server or, with the server behind, the command."""
    parser = argparse.ArgumentParser(
        prog="envbuild-sshd", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", nargs="*", metavar="-- CMD", help="run this with the server in the background"
    )
    own, dashes, command = _split(arguments)
    parser.parse_args(own)
    try:
        if own or (dashes and not command):
            raise Refusal("a command goes after two dashes", "envbuild-sshd -- CMD…, or envbuild-sshd alone")
        if command and shutil.which(command[0]) is None:
            raise Refusal(f"{command[0]}: there is no such program", "check its name and PATH", status=127)
        return _start(settings(os.environ), command)
    except Refusal as refused:
        _say(f"{refused}\nhint: {refused.hint}")
        return refused.status


def _split(arguments: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in arguments:
        return list(arguments), False, []
    at = list(arguments).index("--")
    return list(arguments[:at]), True, list(arguments[at + 1 :])


def _start(chosen: Settings, command: Sequence[str]) -> NoReturn:
    lines = keys.gather(chosen)
    environ = dict(os.environ)
    _port_is_free(chosen.port)
    _folders(chosen)
    if chosen.cluster:
        environ.update(_cluster(chosen))
    made = keys.host_keys(chosen)
    _write(chosen.state / "authorized_keys", "".join(f"{line}\n" for line in lines))
    written = _write(chosen.state / "sshd_config", config.sshd_config(chosen, made, environ), mode=0o600)
    for name in config.left_out(environ):
        _say(f"{name} has several lines and does not reach SSH sessions")
    if chosen.root:
        _unlock()
    checked = subprocess.run([SSHD, "-t", "-f", str(written)], capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        raise Refusal(checked.stderr.strip(), f"see {written} and /etc/ssh/sshd_config.d", status=1)
    _tell(chosen, made, lines)
    if not command:
        os.execv(SSHD, [SSHD, "-D", "-e", "-f", str(written)])
    _behind(chosen, written)
    os.execvpe(command[0], list(command), environ)


def _port_is_free(port: int) -> None:
    """Tried here, because a server that gets IPv6 and not IPv4 goes on without a word that anybody sees."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
            tried.listen()
        except OSError as error:
            what = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            raise Refusal(f"port {port} {what}", f"another one: -e {PORT}=2222", status=1) from None


def _folders(chosen: Settings) -> None:
    try:
        chosen.state.mkdir(mode=0o755 if chosen.root else 0o700, exist_ok=True)
        if chosen.root:
            SEPARATION.mkdir(mode=0o755, exist_ok=True)
        (chosen.state / "pid").unlink(missing_ok=True)
    except OSError as error:
        place = "/run" if chosen.root else str(chosen.home)
        raise Refusal(
            f"{chosen.state} cannot be written: {error.strerror}",
            f"in a read-only container: --tmpfs {place}",
            status=1,
        ) from None


def _write(path: Path, text: str, *, mode: int = 0o644) -> Path:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", errors="surrogateescape") as stream:
        stream.write(text)
    return path


def _cluster(chosen: Settings) -> Mapping[str, str]:
    """Let ssh know the cluster's hosts: system-wide as root; as a user for pdsh, and by ``ssh -F`` otherwise."""
    known = chosen.state / "known_hosts"
    known.mkdir(mode=0o700, exist_ok=True)
    if chosen.root:
        known.chmod(0o1777)
        folder, main_file = SSH / "ssh_config.d", SSH / "ssh_config"
        try:
            folder.mkdir(exist_ok=True)
            _write(folder / "envbuild-cluster.conf", config.client_config(chosen))
            if not main_file.exists():
                _write(main_file, f"Include {folder}/*.conf\n")
        except OSError as error:
            raise Refusal(
                f"{folder} cannot be written: {error.strerror}", f"leave out {CLUSTER}", status=1
            ) from None
        return {}
    written = _write(chosen.state / "ssh_config", config.client_config(chosen))
    return {"PDSH_SSH_ARGS_APPEND": f"{os.environ.get('PDSH_SSH_ARGS_APPEND', '')} -F {written}".strip()}


def _unlock() -> None:
    """Accounts that never had a password are locked ("!"), and sshd without PAM lets no key into a locked one.

    "*" says the same of passwords, that none matches, and leaves keys alone.
    """
    try:
        shells = set(Path("/etc/shells").read_text().split())
        users = {
            line.split(":")[0]
            for line in Path("/etc/passwd").read_text().splitlines()
            if line.split(":")[-1] in shells
        }
        locked = [
            line.split(":")[0]
            for line in Path("/etc/shadow").read_text().splitlines()
            if line.split(":")[1] == "!"
        ]
    except (OSError, IndexError):
        return
    for user in locked:
        if user in users:
            done = subprocess.run(["/usr/sbin/usermod", "-p", "*", user], capture_output=True, check=False)
            if done.returncode != 0:
                _say(f"{user} cannot log in: the account is locked, and /etc/shadow cannot be written")


def _tell(chosen: Settings, made: Sequence[Path], lines: Sequence[str]) -> None:
    _say(
        f"port {chosen.port}, as {'root and the other accounts' if chosen.root else chosen.user}; this host's keys:"
    )
    for key in made:
        told = subprocess.run(
            [keys.KEYGEN, "-l", "-f", str(key)], capture_output=True, text=True, check=False
        )
        _say(f"  {told.stdout.strip()}")
    _say("who may log in:")
    for line in lines:
        _say(f"  {keys.fingerprint(line, 'a key')}")


def _behind(chosen: Settings, written: Path) -> None:
    """Start the server in a session of its own and wait until it listens (it writes its process id then)."""
    log, pid = chosen.state / "sshd.log", chosen.state / "pid"
    server = subprocess.Popen(
        [SSHD, "-D", "-E", str(log), "-f", str(written)], stdin=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + START
    while not pid.exists():
        if server.poll() is not None or time.monotonic() > until:
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
            said = log.read_text(errors="replace").strip() if log.exists() else ""
            raise Refusal(
                f"the server did not start: {said}", "is the port taken, or below 1024 for a user?", status=1
            )
        time.sleep(0.02)
    server.returncode = 0  # it outlives this program, which becomes the command
    _say(f"in the background; its log is {log}")


def _say(text: str) -> None:
    for line in text.splitlines():
        print(f"envbuild-sshd: {line}", file=sys.stderr, flush=True)
