"""A hint follows from the error that was seen. The messages are real ones, made here where a compiler can make them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from envbuild.smoke.causes import complaints, hint_of, without_link
from envbuild.smoke.checks.compile import not_compiled

UNKNOWN = "nobody knows"


def said(folder: Path, script: str, **environ: str) -> str:
    """What a shell script that must fail says."""
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, script
    return done.stdout + done.stderr


SOURCES = {
    "main.c": "int main(void) { return 0; }\n",
    "python.c": "#include <Python.h>\n",
    "cuda.c": "#include <cuda_runtime.h>\n",
    "own.c": "#include <nowhere/there.h>\n",
    "full.c": "int main(void) { return 0; }\n",
}

REAL = {
    "no libcuda.so": ("gcc main.c -lcuda", "ln -s libcuda.so.1"),
    "no libcuda.so, by lld's name for it": ("gcc main.c -L. -lcuda", "with which Triton links"),
    "another library": ("gcc main.c -lnowhere", "the linker finds no libnowhere.so"),
    "no headers of Python": ("gcc -c python.c", "Python's headers are missing"),
    "no headers of CUDA": ("gcc -c cuda.c", "CUDA's header cuda_runtime.h is missing"),
    "another header": ("gcc -c own.c", "the header nowhere/there.h is missing"),
    "no C compiler": ("PATH=/nowhere; gcc main.c", "there is no C or C++ compiler on PATH"),
    "no C++ compiler": ("PATH=/nowhere; c++ main.c", "there is no C or C++ compiler on PATH"),
    "a compiler without its parts": ("PATH=/nowhere; /usr/bin/gcc main.c", "the compiler lacks its part"),
    "no ninja": ("PATH=/nowhere; ninja", "ninja is not on PATH"),
    "no nvcc": ("PATH=/nowhere; nvcc", "-devel variant"),
    "no space": ("cat main.c > /dev/full", "the disk is full"),
    "not to be written to": ("echo x > /proc/1/comm/x || touch /sys/there", "cannot be written"),
    "a missing library": ("python3 -c 'import ctypes; ctypes.CDLL(\"libnowhere.so.3\")'", "libnowhere.so.3"),
    "another binary interface": ("gcc -shared -fPIC -o lib.so lib.c && ./load.py", "wants nowhere_at_all"),
    "a port that is taken": ("./port.py", "another process has that port"),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_message_gets_the_hint_that_follows_from_it(name: str, tmp_path: Path) -> None:
    for file, text in SOURCES.items():
        (tmp_path / file).write_text(text)
    (tmp_path / "lib.c").write_text("int nowhere_at_all(void); int f(void) { return nowhere_at_all(); }\n")
    scripts = {
        "load.py": "import ctypes\nctypes.CDLL('./lib.so', 2)\n",
        "port.py": "import socket\na, b = socket.socket(), socket.socket()\na.bind(('127.0.0.1', 0))\n"
        "a.listen()\nb.bind(a.getsockname())\n",
    }
    for file, text in scripts.items():
        (tmp_path / file).write_text(f"#!{sys.executable}\n{text}")
        (tmp_path / file).chmod(0o755)
    script, hint = REAL[name]
    assert hint in hint_of(said(tmp_path, script), UNKNOWN)


WRITTEN = {
    # What torch, DeepSpeed, Triton, Inductor, NCCL and CUDA raise or print (their sources).
    "Failed to find C compiler. Please specify via CC environment variable.": "no C or C++ compiler",
    "RuntimeError: Ninja is required to load C++ extensions (pip install ninja to get it)": "ninja is not on PATH",
    "ModuleNotFoundError: No module named 'setuptools'": "module setuptools is not installed",
    "ImportError: No module named 'filelock'": "module filelock is not installed",
    "MissingCUDAException: CUDA_HOME does not exist, unable to compile CUDA op(s)": "nvcc is missing",
    "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.": "nvcc is missing",
    "RuntimeError: The detected CUDA version (13.0) mismatches the version that was used to compile": "different CUDA",
    "PermissionError: [Errno 13] Permission denied: '/root/.cache/torch_extensions'": "cannot be written",
    "OSError: [Errno 30] Read-only file system: '/root/.triton'": "cannot be written",
    "Error: failed to extend /dev/shm/nccl-bLNyYi to 33030532 bytes": "/dev/shm is full",
    "misc/shmutils.cc:72 NCCL WARN Error: /dev/shm/nccl-x: No space left on device (28)": "/dev/shm is full",
    "rank 1 was killed by SIGBUS": "/dev/shm is full",
    "g++: fatal error: Killed signal terminated program cc1plus": "memory ran out",
    "the process was killed by SIGILL": "another processor",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": "GPU's memory is taken",
    "RuntimeError: CUDA error: no kernel image is available for execution on the device": "no machine code",
    "The NVIDIA driver on your system is too old (found version 12040).": "driver is too old",
    "CUDA initialization: Unexpected error. Error 802: system not yet initialized": "nvidia-fabricmanager",
    "/lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found": "GLIBCXX_3.4.32",
    "ImportError: /x/fused_adam_op.so: undefined symbol: _ZN3c1021throwNullDataPtrErrorEv": "another torch",
    "libcuda.so cannot found!\nPossible files are located at ['/usr/lib/libcuda.so.1'].": "ln -s libcuda.so.1",
    "ld.lld: error: unable to find library -lcuda": "ln -s libcuda.so.1",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_the_words_of_libraries_get_the_hint_that_follows_from_them(text: str) -> None:
    assert WRITTEN[text] in hint_of(text, UNKNOWN)


def test_a_text_that_names_no_cause_gets_what_fits_the_place() -> None:
    for text in (
        "",
        "AssertionError",
        "loss 0.693",
        "compiled with gcc, ninja and nvcc in 3 s",
        "/dev/shm 8 GiB",
    ):
        assert hint_of(text, UNKNOWN) == UNKNOWN


def test_the_driver_that_has_the_name_elsewhere_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").touch()
    assert f"{tmp_path} has libcuda.so.1 but no libcuda.so" in without_link(tmp_path)
    (tmp_path / "libcuda.so").touch()
    assert f"TRITON_LIBCUDA_PATH={tmp_path}" in without_link(tmp_path)


TRITON = """
import subprocess, sys
from smoke.checks.compile import not_compiled
try:
    subprocess.check_call(["gcc", "x.c", "-shared", "-fPIC", "-o", "x.so", "-lcuda"], stdout=subprocess.DEVNULL)
except Exception as error:
    no = not_compiled(error, where="cuda:0")
    open("answer", "w").write(no.seen + "\\n--hint: " + no.hint)
"""
"""As Triton links: the linker's words go past Python, to the check's log."""


def test_a_driver_folder_without_the_link_is_named_by_the_check_compile(
    suite: Path, tmp_path: Path, compile_c
) -> None:
    driver = compile_c(tmp_path / "driver/libcuda.so.1", "int cuInit(int f) { return 0; }").parent
    (tmp_path / "x.c").write_text("int f(void) { return 0; }\n")
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-P", "-c", TRITON],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(suite), "LD_LIBRARY_PATH": str(driver), "LC_ALL": "C"},
            stdout=log,
            stderr=log,
            check=True,
        )
    seen, _, hint = (tmp_path / "answer").read_text().partition("--hint: ")
    assert "cannot find -lcuda" in seen
    assert hint.startswith(f"{driver} has libcuda.so.1 but no libcuda.so, with which Triton links")
    assert f"ln -s libcuda.so.1 {driver}/libcuda.so" in hint


def test_the_compilers_complaints_are_told_once_and_without_the_rest(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text("int main(void) { return y; }\n")
    text = said(tmp_path, "gcc x.c; gcc x.c")
    (line,) = complaints(text)
    assert line.startswith("x.c:1:")
    assert "error: 'y' undeclared" in line


def test_an_error_that_nobody_knows_keeps_its_own_words() -> None:
    no = not_compiled(ValueError("what is this"), where="cuda:0")
    assert no.seen == "ValueError: what is this"
    assert "output below" in no.hint
