"""The NVIDIA driver of this machine: device nodes, libraries, programs, firmware, sockets, as a container needs them.

Used where no NVIDIA container toolkit does it: by the bare OCI runtime and the sandbox. docs/reference/engines.md
compares it with the toolkit's own list. :mod:`.loader` makes the loader find the libraries.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from envbuild.engine.model import Gpus, Mount
from envbuild.errors import EnvbuildError, Exit
from envbuild.native.objects import soname

LIBRARY_FOLDER = "/usr/local/nvidia/lib64"
"""Where the driver's libraries lie in the container: a folder of their own, so that nothing else of the host leaks."""

_COMMON_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_NEEDED_NODES = ("nvidiactl", "nvidia-uvm")
# The user-space half of the driver for the toolkit's capabilities `compute` and `utility`.
_LIBRARIES = re.compile(
    r"lib(cuda|cudadebugger|nvidia-(ml|cfg|nscq|ptxjitcompiler|nvvm\d*|gpucomp|allocator|opencl|compiler|"
    r"fatbinaryloader|sandboxutils|tileiras|pkcs11[a-z0-9-]*))\.so\.[0-9.]+"
)
LINKS = {"libcuda.so": "libcuda.so.1"}
"""Names without a version that a linker asks for (``-lcuda``: Triton does, at run time), and what they stand for."""

_DRIVER_FOLDERS = ("usr/local/nvidia/lib64", "usr/local/nvidia/lib", "usr/lib64/nvidia", "usr/lib/nvidia")
_PROGRAMS = (
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
)
_PROGRAM_FOLDERS = ("usr/local/nvidia/bin", "usr/bin")
_SOCKETS = ("run/nvidia-persistenced/socket", "run/nvidia-fabricmanager/socket", "tmp/nvidia-mps")
_CACHE_LINE = re.compile(r"\s(\S+) \(libc6,x86-64[^)]*\) => (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What was found. ``gpus`` are the device nodes of the GPUs, by number; ``version`` is None if unknown.

    ``libraries`` maps a file name in the container to the host's file, ``programs`` likewise; ``common`` are the nodes
    that every container needs; ``firmware`` and ``sockets`` map a path in the container to the host's. ``unlinked`` is
    the folder of this machine that has libcuda.so.1 where none has libcuda.so, which containers get all the same.
    """

    version: str | None
    gpus: tuple[str, ...]
    common: tuple[str, ...]
    libraries: Mapping[str, Path]
    programs: Mapping[str, Path]
    firmware: Mapping[str, Path]
    sockets: Mapping[str, Path]
    unlinked: Path | None = None

    @property
    def smi(self) -> Path | None:
        """nvidia-smi, if it is there."""
        return self.programs.get("nvidia-smi")

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
        """Everything but the nodes, at fixed places in the container; only the sockets can be written to."""
        files = {f"{LIBRARY_FOLDER}/{name}": path for name, path in sorted(self.libraries.items())}
        files |= {f"/usr/bin/{name}": path for name, path in sorted(self.programs.items())}
        files |= dict(sorted(self.firmware.items()))
        return (
            *(Mount(source=path, target=target) for target, path in files.items()),
            *(
                Mount(source=path, target=target, read_only=False)
                for target, path in sorted(self.sockets.items())
            ),
        )


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
    version = _version(root)
    listed = _listed(root)
    return Driver(
        version=version,
        gpus=tuple(f"/dev/nvidia{number}" for number in numbers),
        common=tuple(common),
        libraries=_libraries(listed, version),
        programs=_programs(root),
        firmware=_firmware(root, version),
        sockets={f"/{path}": root / path for path in _SOCKETS if (root / path).exists()},
        unlinked=_unlinked(listed),
    )


def _version(root: Path) -> str | None:
    path = root / "proc/driver/nvidia/version"
    if not path.is_file():
        return None
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text(errors="replace"))
    return found[1] if found else None


def _programs(root: Path) -> dict[str, Path]:
    found = [root / folder / name for name in _PROGRAMS for folder in reversed(_PROGRAM_FOLDERS)]
    return {path.name: path.resolve() for path in found if path.is_file()}


def _firmware(root: Path, version: str | None) -> dict[str, Path]:
    """The firmware of the GPUs' own processor, of the loaded driver's version."""
    folder = f"lib/firmware/nvidia/{version}"
    return {f"/{folder}/{path.name}": path.resolve() for path in sorted((root / folder).glob("gsp*.bin"))}


def _listed(root: Path) -> list[Path]:
    return _cached(root) + [
        path for folder in _DRIVER_FOLDERS for path in sorted((root / folder).glob("lib*.so.*"))
    ]


def _unlinked(listed: list[Path]) -> Path | None:
    folders = [path.parent for path in listed if path.name == "libcuda.so.1" and path.is_file()]
    return None if any((folder / "libcuda.so").exists() for folder in folders) else next(iter(folders), None)


def _libraries(listed: list[Path], version: str | None) -> dict[str, Path]:
    """Each library under the name that it is loaded by and under its file's own (some are loaded by that), then links.

    One file of each library: that of the loaded driver, where there are several versions.
    """
    usable = [(path, path.resolve()) for path in listed if _LIBRARIES.fullmatch(path.name) and path.is_file()]
    usable.sort(key=lambda pair: version is None or not pair[1].name.endswith(f".so.{version}"))
    files: dict[str, Path] = {}
    found: dict[str, Path] = {}
    for path, real in usable:
        if files.setdefault(path.name.partition(".so.")[0], real) == real:
            found |= {path.name: real, real.name: real}
    for real in files.values():
        if list(found.values()).count(real) == 1 and (name := _soname(real)):
            found[name] = real
    return found | {link: found[name] for link, name in LINKS.items() if name in found}


def _soname(path: Path) -> str | None:
    """The name that the loader asks for, which an installer's ldconfig has made a link of; here it has not."""
    try:
        return soname(path.read_bytes())
    except (OSError, ValueError):
        return None


def _cached(root: Path) -> list[Path]:
    """What the loader's cache lists, 64 bit only."""
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        if Path(program).exists():
            cache = str(root / "etc/ld.so.cache")
            done = subprocess.run([program, "-p", "-C", cache], capture_output=True, text=True, check=False)
            return [root / found[2].lstrip("/") for found in _CACHE_LINE.finditer(done.stdout)]
    return []
