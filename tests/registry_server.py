"""Debian's docker-registry on 127.0.0.1."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

# bcrypt of "secret", cost 4
HTPASSWD = "me:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"


def start_registry(
    folder: Path,
    *,
    htpasswd: Path | None = None,
    certificate: tuple[Path, Path] | None = None,
    read_only: bool = False,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start one that keeps its content below ``folder``; ``certificate`` is a file and its key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config: dict[str, Any] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "log": {"level": "error", "accesslog": {"disabled": True}},
    }
    if read_only:
        config["storage"]["maintenance"] = {"readonly": {"enabled": True}}
    if certificate is not None:
        config["http"]["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}
    if htpasswd is not None:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
    (folder / "config.yml").write_text(json.dumps(config))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(folder / "config.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process, port
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError("docker-registry did not start")
