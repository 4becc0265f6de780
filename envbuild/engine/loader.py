"""A layer for the top of a container's root with which the loader finds the driver's libraries.

``LD_LIBRARY_PATH`` alone reaches neither ``ldconfig -p`` (by which Triton looks for libcuda) nor programs that start
with an emptied environment: a session of sshd, sudo. NVIDIA's toolkit runs ldconfig in each container. Here the image's
own ldconfig writes a cache into a folder that becomes the topmost layer of this one container. A file bound over
/etc/ld.so.cache would not do: ldconfig replaces that file, so ``apt-get install`` would fail in the container.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL

from envbuild.engine.gpus import LIBRARY_FOLDER
from envbuild.engine.model import Mount
from envbuild.errors import EnvbuildError
from envbuild.sandbox import Bind, Command, Rootfs, Sandbox

CACHE = "etc/ld.so.cache"
SETTING = "etc/ld.so.conf.d/000-nvidia-driver.conf"
"""Keeps the driver's folder, first, when ldconfig runs again in the container."""

_WORK = "/run/envbuild-loader"
_SECONDS = 60.0
_LIMIT = 16 << 20


def loader_layer(
    sandbox: Sandbox, lowers: tuple[Path, ...], driver: Iterable[Mount], folder: Path
) -> Path | None:
    """Make the layer in ``folder``.

    Args:
        sandbox: where the image's ldconfig runs.
        lowers: the image's unpacked layers, bottom first.
        driver: what the container gets of the driver.
        folder: an empty place of this container's own.

    Returns:
        The layer's root, or None where the image has no ldconfig that works: then ``LD_LIBRARY_PATH`` must do.
    """
    layer, work = folder / "loader", folder / "loader.work"
    for path in (work, layer, (layer / CACHE).parent, (layer / SETTING).parent):
        path.mkdir()
        path.chmod(0o755)
    (work / "ld.so.conf").write_text(f"{LIBRARY_FOLDER}\ninclude /etc/ld.so.conf\n")
    command = Command(
        argv=("ldconfig", "-X", "-f", f"{_WORK}/ld.so.conf", "-C", f"{_WORK}/ld.so.cache"),
        env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
        binds=(
            *(Bind(source=item.source, target=item.target, read_only=item.read_only) for item in driver),
            Bind(source=work, target=_WORK, read_only=False),
        ),
    )
    with suppress(EnvbuildError):
        sandbox.run(
            Rootfs(lowers=lowers), command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, timeout=_SECONDS
        )
    try:
        cache = _content(work / "ld.so.cache")
    except OSError:
        return None
    (layer / CACHE).write_bytes(cache)
    (layer / CACHE).chmod(0o644)
    (layer / SETTING).write_text(f"{LIBRARY_FOLDER}\n")
    (layer / SETTING).chmod(0o644)
    return layer


def _content(path: Path) -> bytes:
    """What the image's ldconfig wrote: a file of its own, since a link would be followed on the host.

    Raises:
        OSError: it wrote none, a link, something that is no file, or far more than a cache has.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        data = stream.read(_LIMIT + 1)
        if not stat.S_ISREG(os.fstat(handle).st_mode) or len(data) > _LIMIT:
            raise OSError(f"{path} is no cache of the loader's")
    return data
