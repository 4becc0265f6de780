"""Which engines work, and what the sandbox may do."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from envbuild.doctor.report import Finding, State
from envbuild.engine.docker import Docker
from envbuild.engine.gpus import find_driver
from envbuild.engine.oci import describe_runtime, find_runtime
from envbuild.errors import EnvbuildError
from envbuild.sandbox import Sandbox
from envbuild.sandbox.syscalls import CLONE_NEWNS, MS_NODEV, MS_NOSUID, MS_PRIVATE, MS_REC, mount, unshare

_TOOLKIT = ("nvidia-container-runtime-hook", "nvidia-container-runtime", "nvidia-ctk")
_INFLATERS = ("unpigz", "igzip")


def docker(environ: Mapping[str, str]) -> Finding:
    """Whether a Docker engine answers this user. It is a convenience: nothing is built with it."""
    try:
        detail = Docker.connect(environ).describe()
    except EnvbuildError as error:
        return _missing("docker", error)
    return Finding(id="docker", state=State.GOOD, detail=detail)


def docker_gpus(environ: Mapping[str, str], root: Path = Path("/")) -> Finding:
    """Whether Docker can hand GPUs to containers: NVIDIA's hook does it. The other engines need none."""
    if not find_driver(root).gpus:
        return Finding(id="docker-gpus", state=State.GOOD, detail="not needed: no GPU here")
    path = os.pathsep.join([environ.get("PATH") or os.defpath, "/usr/bin", "/usr/local/bin"])
    if program := next((found for name in _TOOLKIT if (found := shutil.which(name, path=path))), None):
        return Finding(id="docker-gpus", state=State.GOOD, detail=program)
    return Finding(
        id="docker-gpus",
        state=State.WARNING,
        detail="the NVIDIA container toolkit is not installed: docker run --gpus does not work",
        fix="install nvidia-container-toolkit and restart Docker, or use --engine oci or sandbox, which need none",
    )


def oci(environ: Mapping[str, str]) -> Finding:
    """Whether crun or runc is installed and this user may start containers with it."""
    try:
        program = find_runtime(environ)
        Sandbox.detect()
    except EnvbuildError as error:
        return _missing("oci", error)
    return Finding(
        id="oci", state=State.GOOD, detail=describe_runtime(program), facts={"program": str(program)}
    )


def sandbox() -> Finding:
    """Whether this user can enter namespaces: everything is built there."""
    try:
        found = Sandbox.detect()
    except EnvbuildError as error:
        return _missing("sandbox", error)
    way = "as root" if found.maps is None else "in a user namespace with subordinate ids"
    return Finding(id="sandbox", state=State.GOOD, detail=f"works {way}", facts={"root": found.maps is None})


def overlay(store: Path) -> Finding:
    """Whether layers on the store's file system can be stacked with overlayfs."""
    try:
        found = Sandbox.detect()
        with tempfile.TemporaryDirectory(prefix=".envbuild-doctor-", dir=existing(store)) as folder:
            Path(folder, "lower").mkdir()
            Path(folder, "root").mkdir()
            arguments = {"folder": folder, "user_namespace": found.maps is not None}
            reason = found.call("envbuild.doctor.engines:try_overlay", arguments)
    except EnvbuildError as error:
        return _missing("overlay", error)
    except OSError as error:
        reason = error.strerror
    if reason is None:
        return Finding(id="overlay", state=State.GOOD, detail="overlayfs works over the store's file system")
    return Finding(
        id="overlay",
        state=State.MISSING,
        detail=f"layers in the store cannot be stacked with overlayfs: {reason}",
        fix="put the store on a local file system such as ext4 or xfs: --store FOLDER or ENVBUILD_STORE; "
        "without root it needs Linux 5.11",
    )


def try_overlay(arguments: Mapping[str, object], _advance: Callable[[int], None]) -> str | None:
    """In the sandbox's helper process: mount an overlay over ``folder``/lower; the reason why it does not work."""
    folder = str(arguments["folder"])
    try:
        unshare(CLONE_NEWNS)
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        stack = f"{folder}/stack"
        Path(stack).mkdir()
        mount("tmpfs", stack, "tmpfs", MS_NOSUID | MS_NODEV)
        Path(stack, "upper").mkdir()
        Path(stack, "work").mkdir()
        options = f"lowerdir={folder}/lower,upperdir={stack}/upper,workdir={stack}/work"
        if arguments["user_namespace"]:
            options += ",userxattr"
        mount("overlay", f"{folder}/root", "overlay", MS_NODEV, options)
    except OSError as error:
        return str(error)
    return None


def inflate(environ: Mapping[str, str]) -> Finding:
    """Whether dockerd finds a fast inflater: it then unpacks an image up to twice as fast."""
    path = os.pathsep.join([environ.get("PATH") or os.defpath, "/usr/bin", "/usr/sbin"])
    found = next((name for name in _INFLATERS if shutil.which(name, path=path)), None)
    if found is not None:
        return Finding(id="inflate", state=State.GOOD, detail=f"Docker can inflate layers with {found}")
    return Finding(
        id="inflate",
        state=State.WARNING,
        detail="Docker inflates layers itself, which is slow",
        fix="install pigz (Debian, Ubuntu, Fedora: pigz); Docker uses it when it finds unpigz on its PATH",
    )


def existing(path: Path) -> Path:
    """The nearest folder that exists: ``path`` or one above it."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _missing(id: str, error: EnvbuildError) -> Finding:
    return Finding(
        id=id, state=State.MISSING, detail=error.message, fix=error.hint, facts={"error": error.id}
    )
