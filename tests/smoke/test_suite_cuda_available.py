"""``cuda-available``: what the kernel shows must be what torch computes on, under a driver that is new enough."""

from __future__ import annotations

import pytest

from envbuild.smoke.checks.cuda_available import flags
from envbuild.smoke.gpus import driver_version, numbers_of, present

NVML = """
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { strncpy(text, VERSION, length); return 0; }
"""

CUDA = """
float32 = float64 = None
class Row:
    def __init__(self, values): self.values = values
    def __mul__(self, by): return Row([v * by for v in self.values])
    def __add__(self, more): return Row([v + more for v in self.values])
    def sum(self, dtype): return self
    def item(self): return float(sum(self.values)) + WRONG
def arange(count, device, dtype): return Row(list(range(count)))
class Gpu:
    name, uuid, total_memory, multi_processor_count = "Test GPU", "u-1", 80 << 30, 132
    major, minor = CAPABILITY
class _C:
    _cuda_getArchFlags = staticmethod(lambda: "sm_80 sm_90 compute_90")
cuda.is_available = staticmethod(lambda: SEEN > 0)
cuda.device_count = staticmethod(lambda: SEEN)
cuda.get_device_properties = staticmethod(lambda index: Gpu)
"""


@pytest.fixture
def machine(cuda_place, compile_c):
    """Stand-ins for torch's view of GPUs and for NVML; the check and its process are the real ones."""

    def make(*, given=2, seen=2, driver="580.159.04", capability=(9, 0), wrong=0.0):
        module = cuda_place.site / "torch/__init__.py"
        text = (
            CUDA.replace("SEEN", str(seen))
            .replace("CAPABILITY", str(capability))
            .replace("WRONG", str(wrong))
        )
        module.write_text(module.read_text() + text)
        cuda_place.expect["gpus"] = {"wanted": 2, "given": given}
        cuda_place.expect["driver_floor"] = "525.60.13"
        if driver is not None:
            source = NVML.replace("VERSION", f'"{driver}"')
            compile_c(cuda_place.root / "driver/libnvidia-ml.so.1", source)
            cuda_place.environ["LD_LIBRARY_PATH"] = str(cuda_place.root / "driver")
        return cuda_place

    return make


def test_gpus_under_a_new_enough_driver_pass(machine):
    answer = machine().ask("cuda-available")
    numbers = answer.passed("cuda-available")
    assert numbers["driver"] == "580.159.04"
    assert [gpu["torch"] for gpu in numbers["gpus"]] == ["machine code", "machine code"]
    assert len(answer.report["gpus"]) == 2
    assert answer.report["host"]["driver"] == "580.159.04"


def test_gpus_that_torch_does_not_see_are_a_failure_and_not_a_candidate(machine):
    answer = machine(seen=0).ask("cuda-available")
    answer.failed("cuda-available", "is_available() is False")


def test_a_gpu_that_vanished_fails(machine):
    machine(given=4, seen=3).ask("cuda-available").failed("cuda-available", "the 4 GPU(s)", "3 GPU(s)")


def test_hidden_gpus_fail_and_the_hint_names_the_variable(machine):
    place = machine(seen=1)
    place.environ["CUDA_VISIBLE_DEVICES"] = "0"
    place.ask("cuda-available").failed("cuda-available", "CUDA_VISIBLE_DEVICES is '0'")


def test_fewer_gpus_than_wanted_are_not_a_pass_and_it_says_so(machine):
    answer = machine(given=1, seen=1).ask("cuda-available")
    found = answer.check("cuda-available")
    assert found["status"] == "not-run"
    assert "1 GPU(s) here, and a pass needs 2" in found["seen"]
    assert answer.report["result"] == "candidate"
    assert "2 GPUs are wanted and 1 GPU is here" in answer.report["why"]


def test_a_driver_below_the_floor_fails_with_both_versions(machine):
    machine(driver="515.48.07").ask("cuda-available").failed("cuda-available", "525.60.13", "515.48.07")


def test_blackwell_needs_a_newer_driver(machine):
    machine(driver="565.10", capability=(10, 0)).ask("cuda-available").failed(
        "cuda-available", "570.00", "565.10"
    )


def test_no_driver_at_all_fails(machine):
    machine(driver=None).ask("cuda-available").failed("cuda-available", "NVIDIA_DRIVER_CAPABILITIES")


def test_a_gpu_without_code_for_it_fails(machine):
    machine(capability=(7, 0)).ask("cuda-available").failed("cuda-available", "compute capability 7.0")


def test_a_gpu_that_is_reached_by_ptx_says_so(machine):
    answer = machine(capability=(12, 0)).ask("cuda-available")
    assert answer.passed("cuda-available")["gpus"][0]["torch"] == "PTX"
    first, second = answer.check("cuda-available")["warnings"]
    assert "GPU 0 (Test GPU) runs torch's code through PTX" in first
    assert "GPU 1" in second


def test_a_gpu_that_computes_wrongly_fails(machine):
    machine(wrong=1.0).ask("cuda-available").failed("cuda-available", "16777217")


def test_gpus_are_counted_by_their_device_nodes(tmp_path):
    assert present(tmp_path) == 0
    for name in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert present(tmp_path) == 2


def test_wsl_counts_as_one(tmp_path):
    (tmp_path / "dxg").touch()
    assert present(tmp_path) == 1


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Mon Nov  3 2025", "580.159.04"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86  Release Build", "570.86"),
        ("nothing", None),
    ],
)
def test_the_kernel_module_tells_the_driver(tmp_path, line, version):
    (tmp_path / "version").write_text(line + "\nGCC version: 12.2.0\n")
    assert driver_version(tmp_path / "version") == version


def test_versions_are_compared_as_numbers():
    assert numbers_of("525.60.13") < numbers_of("580.65.06") < numbers_of("580.159.04")


def test_torch_flags_are_read():
    assert flags("sm_50 sm_90a sm_120 compute_120") == ({"5.0", "9.0", "12.0"}, {"12.0"})
