"""What to do about an error, from its own words: those of compilers, linkers, Python, CUDA, NCCL and the kernel.

A hint that follows from what was seen is worth more than one that fits the place: whoever has an error text asks
:func:`hint_of`, and gives what to say where no cause is known.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

from .maps import MAPS
from .process import tail

LIBCUDA = re.compile(
    r"cannot find -lcuda\b|unable to find library -lcuda\b|libcuda\.so cannot found|"
    r"error while loading shared libraries: libcuda\.so:|\blibcuda\.so: cannot open shared object file"
)
"""GNU ld's and lld's words, Triton's own, and the loader's, for the name without a version."""

BUILDING = re.compile(r"MissingCUDAException|CUDA_HOME|\bnvcc\b|[Nn]inja")
"""What an attempt to compile names where nothing may be compiled."""

_EXTENSIONS = "TORCH_EXTENSIONS_DIR, TRITON_CACHE_DIR and TORCHINDUCTOR_CACHE_DIR"

CAUSES = (
    (
        r"ld: cannot find -l([\w.+-]+)|unable to find library -l([\w.+-]+)",
        "the linker finds no lib{0}.so: install the package that brings it, or name its folder in LIBRARY_PATH",
    ),
    (
        r"Python\.h: No such file or directory|'Python\.h' file not found",
        "Python's headers are missing: install them (Debian: libpython3-dev); Triton and extensions are compiled "
        "against them",
    ),
    (
        r"fatal error: ((?:cuda|cublas|cusparse|cusolver|curand|crt/|thrust/|cub/|nv/)[\w/.]*): No such file",
        "CUDA's header {0} is missing: use the -devel variant of the image, and see that CUDA_HOME names its toolkit",
    ),
    (
        r"fatal error: ([\w/.+-]+): No such file|fatal error: '([\w/.+-]+)' file not found",
        "the header {0} is missing: install the package that brings it (C's and C++'s own: libc6-dev, libstdc++-dev)",
    ),
    (
        r"cannot execute ['‘](cc1|cc1plus|as|ld|collect2)['’]",
        "the compiler lacks its part {0}: install gcc and g++ whole (as and ld are of binutils)",
    ),
    (
        r"Failed to find C compiler|No working C\+\+ compiler found|InvalidCxxCompiler|"
        r"(?<![\w+])(?:gcc|g\+\+|cc|c\+\+|clang\+*): (?:command )?not found|"
        r"No such file or directory: '(?:\S*/)?(?:gcc|g\+\+|cc|c\+\+|clang\+*)'|"
        r"Command '\['which', '(?:gcc|g\+\+|cc|c\+\+)'\]' returned",
        "there is no C or C++ compiler on PATH: install gcc and g++, or name one in CC and CXX",
    ),
    (
        r"Ninja is required|ninja: (?:command )?not found|No such file or directory: '(?:\S*/)?ninja'",
        "ninja is not on PATH: install it (pip install ninja), or add its folder to PATH",
    ),
    (
        r"No module named '([\w.]+)'",
        "the Python package of the module {0} is not installed: add it to the recipe, lock it and build the image anew",
    ),
    (
        r"CUDAMismatchException|detected CUDA version \([\d.]+\) mismatches",
        "nvcc and torch are of different CUDA versions: use the -devel variant of the same image, or unset CUDA_HOME",
    ),
    (
        r"MissingCUDAException|nvcc: (?:command )?not found|No such file or directory: '\S*nvcc'|"
        r"CUDA_HOME (?:environment variable is not set|does not exist)",
        "CUDA's compiler nvcc is missing: CUDA operators are compiled in the -devel variant of the image",
    ),
    (
        r"nccl-\S+.*No space left on device|/dev/shm.*No space left on device|No space left on device.*/dev/shm|"
        r"[Ff]ailed to extend /dev/shm|SIGBUS|insufficient shared memory",
        "/dev/shm is full: add --shm-size=8g (or --ipc=host) to `docker run`",  # noqa: S108 -- a hint
    ),
    (
        r"No space left on device|Disk quota exceeded",
        f"the disk is full: make room, or point TMPDIR, {_EXTENSIONS} at a folder with room",
    ),
    (
        r"Read-only file system|Permission denied: '([^']+)'|[Pp]ermission denied",
        f"a folder cannot be written: point HOME, TMPDIR, {_EXTENSIONS} at folders that this user may write, and see "
        "that they are not mounted noexec",
    ),
    (
        r"Killed signal terminated program|SIGKILL|Cannot allocate memory",
        "memory ran out: give the container more, or compile with fewer jobs (MAX_JOBS=1)",
    ),
    (
        r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
        "the GPU's memory is taken: `nvidia-smi` shows by whom; end those programs, or take another GPU",
    ),
    (
        r"SIGILL|Illegal instruction",
        "code was compiled for another processor: remove what TORCH_EXTENSIONS_DIR (~/.cache/torch_extensions) keeps "
        "from another machine",
    ),
    (
        r"no kernel image is available|unsupported gpu architecture|named symbol not found",
        "no machine code for this GPU: see the check cuda-available, and the architectures that the recipe lists",
    ),
    (
        r"driver version is insufficient|driver on your system is too old|unsupported display driver",
        "the driver is too old for this CUDA: install a newer one, or use an image with an older CUDA",
    ),
    (
        r"system not yet initialized|CUDA_ERROR_SYSTEM_NOT_READY|error 802",
        "start nvidia-fabricmanager on the host: GPUs behind an NVSwitch need it, in the driver's version",
    ),
    (
        r"version [`']((?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found",
        "a library was compiled for a newer system ({0}): compile it in this image",
    ),
    (
        r"(lib[\w+-]+\.so[\w.]*): cannot open shared object file",
        "the loader does not find {0}: `ldconfig -p` and LD_LIBRARY_PATH say where it looks",
    ),
    (
        r"undefined symbol: (\w+)",
        "a module was compiled against another torch or Python (it wants {0}): compile it in this image",
    ),
    (
        r"Address already in use",
        "another process has that port: end it, or start the suite again, which takes another port",
    ),
)
"""Words and what to do about them, the most special first; ``{0}`` is what the words name."""

_CAUSES = tuple((re.compile(words), hint) for words, hint in CAUSES)


def hint_of(text: str, otherwise: str) -> str:
    """What to do about the error in ``text``; ``otherwise`` where nobody knows its cause."""
    if LIBCUDA.search(text):
        return without_link(driver_folder())
    for words, hint in _CAUSES:
        if found := words.search(text):
            named = next((group for group in found.groups() if group), "")
            return hint.replace("{0}", named)
    return otherwise


def without_link(folder: Path | None) -> str:
    """What to do where ``-lcuda`` finds nothing; ``folder`` is where the driver's libcuda.so.1 lies, if it is known."""
    if folder is not None and (folder / "libcuda.so").exists():
        return f"libcuda.so is in {folder}, where the linker does not look: set TRITON_LIBCUDA_PATH={folder}"
    where = f"{folder} has libcuda.so.1 but no libcuda.so" if folder else "the linker finds no libcuda.so"
    return (
        f"{where}, with which Triton links: NVIDIA's container toolkit and `envbuild run --engine oci|sandbox` make "
        f"that link; elsewhere: ln -s libcuda.so.1 {folder or 'FOLDER'}/libcuda.so"
    )


def driver_folder() -> Path | None:
    """Where the loader takes the driver's libcuda.so.1 from; ``None`` where it takes none."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    paths = (
        Path(line.split(None, 5)[-1]) for line in MAPS.read_text().splitlines() if "/libcuda.so." in line
    )
    return next((path.parent for path in paths), None)


def own_output() -> str:
    """The end of what this process printed, its children too: a check's goes to a file."""
    file = Path(os.path.realpath("/proc/self/fd/2"))
    return tail(file) if file.is_file() else ""


def complaints(text: str, most: int = 4) -> list[str]:
    """The lines in which a compiler, a linker or a shell says what is wrong."""
    said = [line.strip() for line in text.splitlines() if _COMPLAINT.search(line)]
    return list(dict.fromkeys(said))[:most]


_COMPLAINT = re.compile(r"\berror:|cannot find|undefined reference|: (?:command )?not found|cannot execute")
