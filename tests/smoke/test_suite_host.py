"""``host``: a real NVML and CUDA library of gcc's making, asked by the real check in its own process."""

from __future__ import annotations

import pytest

from envbuild.smoke.nvml import REASONS, slowed

NVML = """
#include <string.h>
#include <unistd.h>
static const char *driver = DRIVER;
static const unsigned count = COUNT;
static const unsigned long long uncorrected[] = UNCORRECTED, ever[] = EVER, reasons[] = REASONS;
static const int lost[] = LOST, ecc[] = ECC, pending[] = PENDING, failed[] = FAILED, mode[] = MODE, major[] = MAJOR;
int nvmlInit_v2(void) { VANISH return INIT; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "some error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { strncpy(text, driver, length); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **handle) { *handle = (void *)(long)(i + 1); return 0; }
#define ME ((long)handle - 1)
int nvmlDeviceGetName(void *handle, char *t, unsigned n) { strncpy(t, "Test GPU", n); return 0; }
int nvmlDeviceGetUUID(void *handle, char *t, unsigned n) {
    if (lost[ME]) return lost[ME];
    strncpy(t, "GPU-0000", n); return 0; }
int nvmlDeviceGetEccMode(void *handle, unsigned *now, unsigned *later) {
    if (ecc[ME] < 0) return 3;
    *now = *later = ecc[ME]; return 0; }
int nvmlDeviceGetTotalEccErrors(void *handle, int type, int counter, unsigned long long *n) {
    if (ecc[ME] < 0) return 3;
    *n = type != 1 ? 12345 : counter == 0 ? uncorrected[ME] : ever[ME]; return 0; }
int nvmlDeviceGetRemappedRows(void *handle, unsigned *c, unsigned *u, unsigned *p, unsigned *f) {
    *c = *u = 0; *p = pending[ME]; *f = failed[ME]; return 0; }
int REASON_FUNCTION(void *handle, unsigned long long *bits) { *bits = reasons[ME]; return 0; }
int nvmlDeviceGetComputeMode(void *handle, int *m) { *m = mode[ME]; return 0; }
int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *later) { *now = *later = MIG; return 0; }
int nvmlDeviceGetCudaComputeCapability(void *handle, int *a, int *b) { *a = major[ME]; *b = 0; return 0; }
"""

CUDA = """
int cuInit(unsigned flags) { return CUDA_STATUS; }
int cuDeviceGetCount(int *n) { *n = CUDA_COUNT; return 0; }
"""

HEALTHY = {
    "DRIVER": '"580.159.04"',
    "COUNT": "2",
    "UNCORRECTED": "{0, 0}",
    "EVER": "{0, 0}",
    "REASONS": "{1, 1}",
    "LOST": "{0, 0}",
    "ECC": "{1, 1}",
    "PENDING": "{0, 0}",
    "FAILED": "{0, 0}",
    "MODE": "{0, 0}",
    "MAJOR": "{9, 9}",
    "MIG": "0",
    "INIT": "0",
    "VANISH": "",
    "REASON_FUNCTION": "nvmlDeviceGetCurrentClocksEventReasons",
    "CUDA_STATUS": "0",
    "CUDA_COUNT": "2",
}


@pytest.fixture
def machine(place, compile_c):
    """A container with two GPUs, whose driver says what the test wants."""
    devices = place.root / "dev"
    devices.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (devices / name).touch()
    source = place.suite / "smoke/gpus.py"
    source.write_text(source.read_text().replace('Path("/dev")', f"Path({str(devices)!r})"))

    def make(nvml=True, **changes):
        words = {**HEALTHY, "DEVICES": str(devices), **changes}
        assert not set(changes) - set(HEALTHY)
        options = [f"-D{name}={text}" for name, text in words.items() if name != "VANISH"]
        if nvml:
            code = NVML.replace("VANISH", words["VANISH"])
            compile_c(place.root / "driver/libnvidia-ml.so.1", code, *options)
        compile_c(place.root / "driver/libcuda.so.1", CUDA, *options)
        place.environ["LD_LIBRARY_PATH"] = str(place.root / "driver")
        place.expect["driver_floor"] = "580.65.06"
        return place

    return make


def _warnings(place):
    answer = place.ask("host")
    answer.passed("host")
    return answer.check("host")["warnings"]


def test_two_healthy_gpus_pass_and_all_is_told(machine):
    numbers = machine().ask("host").passed("host")
    assert (numbers["driver"], numbers["floor"]) == ("580.159.04", "580.65.06")
    assert [gpu["uncorrected"] for gpu in numbers["gpus"]] == [0, 0]
    assert numbers["cuda"] == {"status": 0, "gpus": 2}
    assert numbers["shm"]["size"] > 0
    assert set(numbers["limits"]) == {"memlock", "open_files"}


def test_a_driver_below_the_floor_fails(machine):
    machine(DRIVER='"570.86.15"').ask("host").failed("host", "driver 580.65.06 or newer", "driver 570.86.15")


def test_blackwell_needs_570_under_cuda_12(machine):
    place = machine(DRIVER='"565.57.01"', MAJOR="{9, 10}")
    place.expect["driver_floor"] = "525.60.13"
    place.ask("host").failed("host", "driver 570.00 or newer")


def test_without_nvml_there_is_no_pass(machine):
    machine(nvml=False).ask("host").failed("host", "libnvidia-ml.so.1", "NVIDIA_DRIVER_CAPABILITIES")


def test_a_driver_that_was_updated_under_a_running_module_fails(machine):
    machine(INIT="18").ask("host").failed("host", "(18)", "reboot the host")


def test_uncorrected_memory_errors_fail_and_name_the_gpu(machine):
    machine(UNCORRECTED="{0, 3}").ask("host").failed(
        "host", "GPU 1 (Test GPU, GPU-0000): 3 uncorrected", "drain"
    )


def test_old_uncorrected_errors_are_a_warning(machine):
    assert any(
        "2 uncorrected memory error(s) in its life" in text for text in _warnings(machine(EVER="{2, 0}"))
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [({"PENDING": "{1, 0}"}, "waits to be remapped"), ({"FAILED": "{0, 1}"}, "has to be replaced")],
)
def test_memory_repairs_that_wait_or_failed_fail(machine, change, said):
    machine(**change).ask("host").failed("host", said)


def test_gpus_without_ecc_have_no_errors_to_count(machine):
    numbers = machine(ECC="{-1, -1}").ask("host").passed("host")
    assert [gpu["uncorrected"] for gpu in numbers["gpus"]] == [None, None]


def test_ecc_that_is_switched_off_is_a_warning(machine):
    assert any("GPU 0 (Test GPU): ECC is off" in text for text in _warnings(machine(ECC="{0, 1}")))


@pytest.mark.parametrize(
    "function", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
def test_clocks_that_are_held_down_are_a_warning_with_every_bits_meaning(machine, function):
    warnings = _warnings(machine(REASONS="{0x44, 1}", REASON_FUNCTION=function))
    assert [text for text in warnings if text.startswith("GPU ")] == [
        "GPU 0 (Test GPU): its power cap holds the clocks down",
        "GPU 0 (Test GPU): too hot: hardware holds the clocks down to half or less (check cooling)",
    ]


def test_idle_and_chosen_clocks_are_no_slowdown():
    assert slowed(0x1 | 0x2 | 0x100) == []
    assert len(slowed(0xFFF)) == len(REASONS)


def test_an_exclusive_compute_mode_is_told(machine):
    assert any("exclusive process" in text for text in _warnings(machine(MODE="{3, 3}")))


def test_a_gpu_that_fell_off_the_bus_fails(machine):
    machine(LOST="{0, 15}").ask("host").failed("host", "GPU 1: NVML says 'GPU is lost' (15)", "Xid 79")


def test_a_gpu_that_nvml_no_longer_knows_fails(machine):
    machine(COUNT="1").ask("host").failed("host", "NVML knows 1 GPU(s) of 2")


def test_a_gpu_whose_device_vanishes_while_the_suite_runs_fails(machine, tmp_path):
    vanish = f'unlink("{tmp_path}/dev/nvidia1");'
    machine(VANISH=vanish).ask("host").failed(
        "host", "the kernel showed 2 GPU(s) when the suite started, and now 1"
    )


def test_gpus_that_cuda_does_not_see_fail(machine):
    machine(CUDA_COUNT="1").ask("host").failed("host", "CUDA to see the 2 GPU(s) that NVML sees", "1 GPU(s)")


def test_gpus_that_a_variable_hides_fail_and_it_is_named(machine):
    place = machine(CUDA_COUNT="1")
    place.environ["CUDA_VISIBLE_DEVICES"] = "0"
    place.ask("host").failed("host", "CUDA_VISIBLE_DEVICES is '0'")


@pytest.mark.parametrize(("status", "said"), [("802", "nvidia-fabricmanager"), ("803", "reboot the host")])
def test_a_cuda_that_does_not_start_fails_with_its_cure(machine, status, said):
    machine(CUDA_STATUS=status).ask("host").failed("host", f"cuInit: {status}", said)


def test_instances_of_a_gpu_are_not_counted_as_gpus(machine):
    assert any("MIG is on" in text for text in _warnings(machine(MIG="1", CUDA_COUNT="1")))


def _limit(place, code):
    """Start the check's process with limits of the test's."""
    folder = place.root / "limits"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    place.environ["PYTHONPATH"] = f"{folder}:{place.suite}"
    return place


def test_low_limits_are_warnings_with_the_flag_to_add(machine):
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
    )
    warnings = " ".join(_warnings(_limit(machine(), code)))
    assert "256 open files" in warnings
    assert "memlock is limited to 64 KiB" in warnings
    assert "--ulimit memlock=-1" in warnings


def test_shared_memory_without_room_for_nccl_fails(machine):
    """A limit on the size of files stops the same call that a full /dev/shm stops."""
    code = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    _limit(machine(), code).ask("host").failed("host", "66,061,064 bytes of shared memory", "--ipc=host")


def test_little_shared_memory_is_a_warning(machine):
    place = machine()
    source = place.suite / "smoke/checks/host.py"
    source.write_text(source.read_text().replace("SHM_WANTED = 1 << 30", "SHM_WANTED = 1 << 60"))
    assert any("/dev/shm has" in text for text in _warnings(place))


def test_a_driver_folder_without_libcuda_so_is_a_warning_that_names_it(machine):
    place = machine()
    folder = place.root / "driver"
    (warning,) = [text for text in _warnings(place) if "libcuda" in text]
    assert warning.startswith(f"{folder} has libcuda.so.1 but no libcuda.so, with which Triton links")
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    assert not [text for text in _warnings(place) if "libcuda" in text]


@pytest.mark.parametrize(
    ("status", "said"), [("9", "modprobe nvidia"), ("4", "/dev/nvidia*"), ("999", "dmesg")]
)
def test_an_nvml_that_does_not_start_fails_with_its_cure(machine, status, said):
    found = machine(INIT=status).ask("host").failed("host", f"({status})")
    assert said in found["hint"]
    assert "NVIDIA_DRIVER_CAPABILITIES" not in found["hint"]


def test_a_missing_libcuda_is_named_and_no_variable_is_blamed(machine):
    place = machine()
    (place.root / "driver/libcuda.so.1").unlink()
    place.environ["CUDA_VISIBLE_DEVICES"] = "0"
    found = place.ask("host").failed("host", "cuInit: -1")
    assert "libcuda.so.1 is not in the container" in found["hint"]
