"""The server's configuration and the client's, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .settings import CLUSTER, KEYS, KEYS_FILE, PORT, Settings

OF_THE_SESSION = frozenset(
    (
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "TERM",
        "MAIL",
        "_",
        KEYS,
        KEYS_FILE,
        PORT,
        CLUSTER,
    )
)
"""Variables that a session has of its own, or that are for this program."""


def sshd_config(settings: Settings, host_keys: Sequence[Path], environ: Mapping[str, str]) -> str:
    """sshd_config(5). The first value of a keyword holds, so drop-ins can add and cannot open what is shut here."""
    state = settings.state
    lines = [
        f"Port {settings.port}",
        *(f"HostKey {key}" for key in host_keys),
        f"PidFile {state}/pid",
        f"AuthorizedKeysFile {state}/authorized_keys .ssh/authorized_keys",
        "AuthenticationMethods publickey",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "HostbasedAuthentication no",
        "GSSAPIAuthentication no",
        "PermitEmptyPasswords no",
        "PermitRootLogin prohibit-password",
        "PermitUserEnvironment no",
        "UsePAM no",  # its session modules need rights that containers lack; limits are the container's
        "X11Forwarding no",
        "PrintMotd no",
        "PrintLastLog no",
        "Subsystem sftp internal-sftp",
        set_env(environ),
        "Include /etc/ssh/sshd_config.d/*.conf",
    ]
    return "".join(f"{line}\n" for line in lines)


def handed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """The container's variables that reach a session, and ENVBUILD_PATH, from which login shells take their PATH."""
    kept = {
        name: value
        for name, value in sorted(environ.items())
        if name not in OF_THE_SESSION
        and not name.startswith("SSH_")
        and "\n" not in value
        and "\r" not in value
    }
    return {**kept, "ENVBUILD_PATH": environ.get("PATH", "")}


def left_out(environ: Mapping[str, str]) -> list[str]:
    """Variables that sshd_config cannot hold, because they have more than one line."""
    return sorted(
        name
        for name, value in environ.items()
        if name not in OF_THE_SESSION and ("\n" in value or "\r" in value)
    )


def set_env(environ: Mapping[str, str]) -> str:
    """The one ``SetEnv`` line (sshd takes the first only), quoted for OpenSSH's argv_split."""
    words = []
    for name, value in handed_on(environ).items():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        words.append(f'"{name}={escaped}"')
    return " ".join(["SetEnv", *words])


def client_config(settings: Settings) -> str:
    """ssh_config(5) for the cluster's hosts: a host's key is taken when it is first seen, and must stay the same.

    The port goes with names only: under ``Host *`` it would be every other host's too.
    """
    lines = [
        f"# Written by envbuild-sshd, because {CLUSTER} asks for it.",
        f"Host {' '.join(settings.cluster)}",
        "    StrictHostKeyChecking accept-new",
        "    LogLevel ERROR",  # no line a machine that its key was taken; a changed key is an error and is told
        f"    UserKnownHostsFile {settings.state}/known_hosts/%i",
    ]
    if settings.cluster != ("*",):
        lines.append(f"    Port {settings.port}")
    return "".join(f"{line}\n" for line in lines)
