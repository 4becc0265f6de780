"""The NVIDIA driver of this machine: device nodes, libraries and nvidia-smi, as a container needs them.

Used where no NVIDIA container toolkit does it: by the bare OCI runtime and the sandbox.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from envbuild.engine.model import Gpus, Mount
from envbuild.errors import EnvbuildError, Exit

LIBRARY_FOLDER = "/usr/local/nvidia/lib64"
"""Where the driver's libraries lie in the container: a folder of their own, so that nothing else of the host leaks."""

_COMMON_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_NEEDED_NODES = ("nvidiactl", "nvidia-uvm")
# The user-space half of the driver that CUDA, NVML and PTX compilation load.
_LIBRARIES = re.compile(
    r"lib(cuda|cudadebugger|nvidia-(ml|cfg|nscq|ptxjitcompiler|nvvm\d*|gpucomp|allocator|opencl|compiler|"
    r"fatbinaryloader|pkcs11[a-z0-9-]*))\.so\.[0-9.]+"
)
_DRIVER_FOLDERS = ("usr/local/nvidia/lib64", "usr/local/nvidia/lib", "usr/lib64/nvidia", "usr/lib/nvidia")
_PROGRAMS = ("usr/local/nvidia/bin/nvidia-smi", "usr/bin/nvidia-smi")
_CACHE_LINE = re.compile(r"\s(\S+) \(libc6,x86-64[^)]*\) => (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What was found. ``gpus`` are the device nodes of the GPUs, by number; ``version`` is None if unknown.

    ``libraries`` maps a file name to the host's file; ``common`` are the nodes that every container needs.
    """

    version: str | None
    gpus: tuple[str, ...]
    common: tuple[str, ...]
    libraries: Mapping[str, Path]
    smi: Path | None

    def devices(self, gpus: Gpus) -> tuple[str, ...]:
        """The device nodes for that many GPUs. Errors (exit 7): ``no-gpus``, ``too-few-gpus``."""
        missing = [name for name in _NEEDED_NODES if f"/dev/{name}" not in self.common]
        if not self.gpus or missing or "libcuda.so.1" not in self.libraries:
            lack = (
                "device nodes /dev/nvidia<N>"
                if not self.gpus
                else ", ".join(f"/dev/{name}" for name in missing)
            )
            raise EnvbuildError(
                "no-gpus",
                f"this machine has no usable NVIDIA GPU: no {lack or 'libcuda.so.1'}",
                hint="run it on a machine with a GPU and its driver; if this is one, `nvidia-smi` (or "
                "`nvidia-modprobe -u -c=0`) makes the device nodes, and `envbuild doctor` says what it sees",
                exit=Exit.ENGINE,
            )
        if gpus != "all" and gpus > len(self.gpus):
            raise EnvbuildError(
                "too-few-gpus",
                f"{gpus} GPUs were asked for, this machine has {len(self.gpus)}",
                hint=f"ask for at most {len(self.gpus)} (--gpus {len(self.gpus)})",
                exit=Exit.ENGINE,
            )
        return (*self.common, *(self.gpus if gpus == "all" else self.gpus[:gpus]))

    def mounts(self) -> tuple[Mount, ...]:
        """Libraries and nvidia-smi, read-only, at fixed places in the container."""
        found = [
            Mount(source=path, target=f"{LIBRARY_FOLDER}/{name}")
            for name, path in sorted(self.libraries.items())
        ]
        if self.smi is not None:
            found.append(Mount(source=self.smi, target="/usr/bin/nvidia-smi"))
        return tuple(found)


def with_libraries(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` with the driver's libraries on the loader's path, before what is there."""
    rest = env.get("LD_LIBRARY_PATH", "")
    return {**env, "LD_LIBRARY_PATH": LIBRARY_FOLDER + (f":{rest}" if rest else "")}


def find_driver(root: Path = Path("/")) -> Driver:
    """Look for the driver below ``root`` (tests give another than ``/``). Nothing found is no error here."""
    dev = root / "dev"
    names = {path.name for path in dev.glob("nvidia*")}
    numbers = sorted(int(name.removeprefix("nvidia")) for name in names if re.fullmatch(r"nvidia\d+", name))
    common = [f"/dev/{name}" for name in _COMMON_NODES if name in names]
    common += sorted(f"/dev/nvidia-caps/{path.name}" for path in dev.glob("nvidia-caps/*"))
    smi = next((root / program for program in _PROGRAMS if (root / program).is_file()), None)
    return Driver(
        version=_version(root),
        gpus=tuple(f"/dev/nvidia{number}" for number in numbers),
        common=tuple(common),
        libraries=_libraries(root),
        smi=smi.resolve() if smi else None,
    )


def _version(root: Path) -> str | None:
    path = root / "proc/driver/nvidia/version"
    if not path.is_file():
        return None
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text(errors="replace"))
    return found[1] if found else None


def _libraries(root: Path) -> dict[str, Path]:
    """Each library under the name that it is loaded by and under its file's own (some are loaded by that)."""
    found: dict[str, Path] = {}
    listed = _cached(root) + [
        path for folder in _DRIVER_FOLDERS for path in sorted((root / folder).glob("lib*.so.*"))
    ]
    for path in listed:
        if _LIBRARIES.fullmatch(path.name) and path.is_file():
            real = path.resolve()
            found.setdefault(path.name, real)
            found.setdefault(real.name, real)
    return found


def _cached(root: Path) -> list[Path]:
    """What the loader's cache lists, 64 bit only."""
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        if Path(program).exists():
            cache = str(root / "etc/ld.so.cache")
            done = subprocess.run([program, "-p", "-C", cache], capture_output=True, text=True, check=False)
            return [root / found[2].lstrip("/") for found in _CACHE_LINE.finditer(done.stdout)]
    return []
