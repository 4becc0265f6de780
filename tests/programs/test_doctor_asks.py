"""Asking the driver by ctypes in a process of its own: with a library that answers, fails, hangs, crashes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from envbuild.image.inside.doctor import ask_driver
from envbuild.image.inside.doctor.main import answer_of

ASK = str(Path(ask_driver.__file__))
NVML = r"""
#include <string.h>
typedef void *dev;
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int e) { return "Driver Not Loaded"; }
int nvmlSystemGetDriverVersion(char *t, unsigned n) { strncpy(t, "580.159.04", n); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, dev *d) { *d = (dev)(long)(i + 1); return i == 2 ? 15 : 0; }
int nvmlDeviceGetName(dev d, char *t, unsigned n) { strncpy(t, "NVIDIA H200", n); return 0; }
int nvmlDeviceGetUUID(dev d, char *t, unsigned n) { return 999; }
int nvmlDeviceGetMemoryInfo(dev d, memory *m) { m->total = 150ULL << 30; m->used = 3ULL << 30; return 0; }
int nvmlDeviceGetCudaComputeCapability(dev d, int *a, int *b) { *a = 9; *b = 0; return 0; }
int nvmlDeviceGetTotalEccErrors(dev d, int e, int c, unsigned long long *n) {
    if (e != 1 || c != 0) return 2;
    *n = (long)d == 2 ? 7 : 0;
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(dev d, unsigned long long *n) { *n = 0x100000040ULL; return 0; }
int nvmlDeviceGetComputeMode(dev d, int *m) { *m = 0; return 0; }
int nvmlDeviceGetP2PStatus(dev a, dev b, int what, int *s) { *s = what == 0 ? (int)(long)b : 99; return 0; }
"""
CUDA = r"""
int cuInit(unsigned f) { BODY; return 0; }
int cuDriverGetVersion(int *v) { *v = 13020; return 0; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
"""


def ask(what: str, folder: Path, source: str, seconds: float = 30) -> dict[str, object]:
    """Compile a library of that name and ask it, as the doctor does."""
    name = {"nvml": "libnvidia-ml.so.1", "cuda": "libcuda.so.1"}[what]
    (folder / "library.c").write_text("#include <unistd.h>\n#include <stdlib.h>\n" + source)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", folder / name, folder / "library.c"], check=True)
    return answer_of(["env", f"LD_LIBRARY_PATH={folder}", sys.executable, "-BIS", ASK, what], seconds=seconds)


def test_nvml_answers(tmp_path: Path) -> None:
    told = ask("nvml", tmp_path, NVML.replace("INIT", "0"))
    assert told["driver"] == "580.159.04"
    first, second = told["gpus"]
    assert first == {
        "index": 0,
        "name": "NVIDIA H200",
        "uuid": None,
        "memory": 150 << 30,
        "used": 3 << 30,
        "capability": "9.0",
        "ecc_uncorrected": 0,
        "slowed": 0x100000040,
        "compute_mode": 0,
    }
    assert second["ecc_uncorrected"] == 7
    assert told["peers"] == [{"from": 0, "to": 1, "status": 2}, {"from": 1, "to": 0, "status": 1}]


def test_nvml_says_no(tmp_path: Path) -> None:
    assert ask("nvml", tmp_path, NVML.replace("INIT", "9")) == {"error": "nvmlInit_v2: 9, Driver Not Loaded"}


def test_an_older_library_without_a_function(tmp_path: Path) -> None:
    source = NVML.replace("INIT", "0").replace("nvmlDeviceGetP2PStatus", "other")
    assert "nvmlDeviceGetP2PStatus" in str(ask("nvml", tmp_path, source)["error"])


def test_cuda_answers(tmp_path: Path) -> None:
    assert ask("cuda", tmp_path, CUDA.replace("BODY", "")) == {"init": 0, "cuda": "13.2", "count": 2}
    assert ask("cuda", tmp_path, CUDA.replace("BODY", "return 802")) == {"init": 802, "cuda": "13.2"}


def test_cuda_hangs(tmp_path: Path) -> None:
    told = ask("cuda", tmp_path, CUDA.replace("BODY", "sleep(600)"), seconds=1)
    assert told == {"error": "no answer within 1 s"}


@pytest.mark.parametrize("body", ["abort()", "*(int *)0 = 1", "_exit(3)"])
def test_cuda_crashes(tmp_path: Path, body: str) -> None:
    assert "status" in str(ask("cuda", tmp_path, CUDA.replace("BODY", body))["error"])


def test_no_library_at_all(tmp_path: Path) -> None:
    told = answer_of(["env", f"LD_LIBRARY_PATH={tmp_path}", sys.executable, "-BIS", ASK, "nvml"], seconds=30)
    assert told.get("error") or told.get("driver")
    assert "No such file" in str(answer_of([str(tmp_path / "no-python")], seconds=1)["error"])
