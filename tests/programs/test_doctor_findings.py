"""What the doctor says of hosts that have something wrong, on folders that look like such a host's /proc and /dev."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from envbuild.image.inside.doctor import limits
from envbuild.image.inside.doctor.gpus import reach_of
from envbuild.image.inside.doctor.main import LOOKS, fits, flags_of, look, page, report
from envbuild.image.inside.doctor.model import Finding, Host, State

GIB = 1 << 30
H200 = {
    "name": "NVIDIA H200",
    "uuid": "GPU-1",
    "memory": 141 * GIB,
    "used": 0,
    "capability": "9.0",
    "ecc_uncorrected": 0,
    "slowed": 1,
    "compute_mode": 0,
}
IMAGE = {
    "ref": "pytorch-cuda:v2.7",
    "cuda": "12.6",
    "nccl": "2.26.2",
    "architectures": ["7.0", "8.0", "8.6", "9.0+PTX"],
}
FILES = {
    "dev/nvidia0": "",
    "dev/nvidia1": "",
    "dev/nvidiactl": "",
    "dev/shm/.keep": "",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release\n",
    "proc/meminfo": "MemTotal: 100000000 kB\nMemAvailable: 90000000 kB\n",
    "proc/self/status": "CapEff:\t00000000a80425fb\n",
    "sys/class/net/lo/x": "",
    "sys/class/net/eth0/x": "",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/fs/cgroup/memory.max": "max\n",
    "sys/fs/cgroup/pids.max": "max\n",
    "workspace/.keep": "",
    "tmp/.keep": "",
    "root/.keep": "",
}


@pytest.fixture
def healthy(tmp_path: Path) -> Host:
    """Two H200s, a new driver, everything that the image wants."""
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "proc/self/ns").mkdir()
    (tmp_path / "proc/self/ns/ipc").symlink_to("ipc:[4026531839]")
    return Host(
        root=tmp_path,
        environ={"HOME": "/root", "NCCL_CUMEM_HOST_ENABLE": "0"},
        limits={"memlock": (-1, -1), "nofile": (1 << 20, 1 << 20)},
        cpus=16,
        image=IMAGE,
        nvml={
            "driver": "580.159.04",
            "gpus": [{"index": 0, **H200}, {"index": 1, **H200}],
            "peers": [{"from": 0, "to": 1, "status": 0}, {"from": 1, "to": 0, "status": 0}],
        },
        cuda={"init": 0, "cuda": "13.0", "count": 2},
        torch={
            "version": "2.7.1+cu126",
            "cuda": "12.6",
            "architectures": ["sm_80", "sm_90", "compute_90"],
            "available": True,
            "count": 2,
        },
    )


@pytest.fixture(autouse=True)
def _shared_memory_of_this_machine_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders lie on this machine's disk, whose size is not what is asked."""
    monkeypatch.setattr(limits, "SHM_FLOOR", 0)
    monkeypatch.setattr("envbuild.image.inside.doctor.places.FREE", 0)


def said(host: Host, name: str) -> Finding:
    return next(found for found in look(host) if found.id == name)


def nvml(host: Host, **changes: object) -> Host:
    """The same with these fields of its second GPU changed."""
    first, second = host.nvml["gpus"]
    return dataclasses.replace(host, nvml={**host.nvml, "gpus": [first, {**second, **changes}]})


def environ(host: Host, **variables: str) -> Host:
    return dataclasses.replace(host, environ={**host.environ, **variables})


def files(host: Host, **contents: str) -> Host:
    for path, text in contents.items():
        (host.root / path.replace("__", "/")).write_text(text)
    return host


def test_a_healthy_host_fits_with_nothing_to_add(healthy: Host) -> None:
    findings = look(healthy)
    network = [
        found for found in findings if found.id == "network"
    ]  # this machine's own name, whatever that is
    assert {found.state for found in findings if found not in network} == {State.GOOD}, page(
        healthy, findings, colour=False
    )
    assert fits(findings)
    assert flags_of(findings) == []
    assert [found.id for found in findings] == [name for name, _ in LOOKS]


SEEDED = {
    "an old driver": (
        lambda h: dataclasses.replace(h, nvml={**h.nvml, "driver": "520.61.05"}),
        "driver",
        "525.60.13",
    ),
    "a driver older than Blackwell": (
        lambda h: dataclasses.replace(
            nvml(h, capability="10.0"), nvml={**nvml(h, capability="10.0").nvml, "driver": "560.1"}
        ),
        "driver",
        "570",
    ),
    "CUDA 13 on a driver of 12": (
        lambda h: dataclasses.replace(
            h, image={**h.image, "cuda": "13.0"}, nvml={**h.nvml, "driver": "570.1"}
        ),
        "driver",
        "580.65.06",
    ),
    "no answer of the driver's library": (
        lambda h: dataclasses.replace(h, nvml={"error": "libnvidia-ml.so.1: cannot open"}),
        "gpus",
        "libnvidia-ml",
    ),
    "CUDA that does not start": (lambda h: dataclasses.replace(h, cuda={"init": 802}), "cuda", "802"),
    "no libcuda": (
        lambda h: dataclasses.replace(h, cuda={"error": "libcuda.so.1: cannot open"}),
        "cuda",
        "libcuda.so.1",
    ),
    "an architecture without code": (lambda h: nvml(h, capability="6.1"), "architecture", "no code for 6.1"),
    "memory errors": (lambda h: nvml(h, ecc_uncorrected=3), "gpu-health", "GPU 1 had 3"),
    "a prohibited GPU": (lambda h: nvml(h, compute_mode=2), "gpu-health", "prohibited"),
    "no capability for cuMem": (
        lambda h: environ(h, NCCL_CUMEM_HOST_ENABLE="1"),
        "capabilities",
        "SYS_NICE",
    ),
    "GPUs hidden": (lambda h: environ(h, CUDA_VISIBLE_DEVICES=""), "variables", "see no GPU"),
    "a GPU that is not there": (lambda h: environ(h, CUDA_VISIBLE_DEVICES="0,7"), "variables", "no GPU 7"),
    "an interface that is not there": (lambda h: environ(h, NCCL_SOCKET_IFNAME="ib0"), "variables", "eth0"),
    "a broken environment": (
        lambda h: dataclasses.replace(h, torch={"error": "ImportError: libcudnn.so.9"}),
        "torch",
        "libcudnn.so.9",
    ),
    "torch for the CPU": (
        lambda h: dataclasses.replace(h, torch={**h.torch, "cuda": None, "available": True}),
        "torch",
        "a build for the CPU",
    ),
    "torch that sees nothing": (
        lambda h: dataclasses.replace(
            h, torch={**h.torch, "available": False, "warnings": ["The NVIDIA driver is too old"]}
        ),
        "torch",
        "driver is too old",
    ),
    "InfiniBand without locked memory": (
        lambda h: dataclasses.replace(_infiniband(h), limits={**h.limits, "memlock": (65536, 65536)}),
        "locked-memory",
        "64 KiB",
    ),
}


def _infiniband(host: Host) -> Host:
    (host.root / "dev/infiniband").mkdir()
    (host.root / "dev/infiniband/uverbs0").write_text("")
    return host


@pytest.mark.parametrize("name", SEEDED)
def test_what_does_not_fit(healthy: Host, name: str) -> None:
    change, row, words = SEEDED[name]
    host = change(healthy)
    found = said(host, row)
    assert found.state is State.PROBLEM
    assert words in found.detail
    assert found.fix
    assert not fits(look(host))


def _quota(host: Host) -> Host:
    (host.root / "sys/fs/cgroup/cpu.max").write_text("150000 100000\n")
    return host


def _library(host: Host) -> Host:
    (host.root / "usr").mkdir()
    (host.root / "usr/libnccl.so.2").write_text("")
    return environ(host, LD_LIBRARY_PATH="/opt/venv/lib:/usr")


def _killed(host: Host) -> Host:
    (host.root / "sys/fs/cgroup/memory.events").write_text("low 0\noom 2\noom_kill 2\n")
    return host


def _pids(host: Host) -> Host:
    (host.root / "sys/fs/cgroup/pids.max").write_text("100\n")
    return host


WORSE = {
    "a preloaded file that is not there": (
        lambda h: environ(h, LD_PRELOAD="/none.so"),
        "variables",
        "/none.so",
    ),
    "another library": (_library, "variables", "another libnccl.so.2"),
    "code through PTX": (
        lambda h: nvml(h, capability="12.0"),
        "architecture",
        "DeepSpeed's operator reaches 12.0",
    ),
    "too hot": (lambda h: nvml(h, slowed=0x40), "gpu-health", "too hot (hardware)"),
    "memory that others use": (lambda h: nvml(h, used=70 * GIB), "gpu-health", "70.0 GiB of 141.0 GiB"),
    "an exclusive GPU": (lambda h: nvml(h, compute_mode=3), "gpu-health", "exclusive"),
    "GPUs that are apart": (
        lambda h: dataclasses.replace(h, nvml={**h.nvml, "peers": [{"from": 0, "to": 1, "status": 4}]}),
        "peer-to-peer",
        "0-1",
    ),
    "a GPU that fell off": (
        lambda h: dataclasses.replace(h, nvml={**h.nvml, "gpus": h.nvml["gpus"][:1]}),
        "gpus",
        "shows 2 GPUs, the driver answers for 1",
    ),
    "few open files": (
        lambda h: dataclasses.replace(h, limits={**h.limits, "nofile": (1024, 4096)}),
        "open-files",
        "1024",
    ),
    "one processor by quota": (_quota, "processors", "1.5"),
    "little memory": (
        lambda h: files(h, proc__meminfo="MemTotal: 100 kB\nMemAvailable: 50 kB\n"),
        "memory",
        "50 KiB",
    ),
    "killed for memory": (_killed, "memory", "killed 2"),
    "few processes": (_pids, "processes", "100"),
    "no direct copies by variable": (
        lambda h: environ(h, NCCL_P2P_DISABLE="1"),
        "variables",
        "NCCL_P2P_DISABLE=1",
    ),
    "NCCL that tells everything": (lambda h: environ(h, NCCL_DEBUG="trace"), "variables", "TRACE"),
    "a home that is not there": (lambda h: environ(h, HOME="/nowhere"), "disk", "/nowhere"),
}


@pytest.mark.parametrize("name", WORSE)
def test_what_works_less_well(healthy: Host, name: str) -> None:
    change, row, words = WORSE[name]
    host = change(healthy)
    found = said(host, row)
    assert found.state is State.WARNING
    assert words in found.detail
    assert found.fix
    assert fits(look(host))


def test_a_variable_about_infiniband_matters_where_there_is_one(healthy: Host) -> None:
    host = environ(healthy, NCCL_IB_DISABLE="1")
    assert said(host, "variables").state is State.GOOD
    assert said(_infiniband(host), "variables").state is State.WARNING


def test_a_container_without_gpus_on_a_host_that_has_them(healthy: Host) -> None:
    for name in ("nvidia0", "nvidia1"):
        (healthy.root / "dev" / name).unlink()
    host = dataclasses.replace(healthy, nvml={"error": "libnvidia-ml.so.1"}, cuda={}, torch={})
    found = said(host, "gpus")
    assert found.state is State.PROBLEM
    assert "this container was given no GPU" in found.detail
    assert flags_of(look(host)) == ["--gpus all"]
    assert said(host, "driver").state is State.GOOD


def test_small_shared_memory_is_a_problem_for_two_gpus_and_a_warning_for_one(
    healthy: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SHM_FLOOR", 1 << 60)
    assert said(healthy, "shared-memory").state is State.PROBLEM
    (healthy.root / "dev/nvidia1").unlink()
    found = said(healthy, "shared-memory")
    assert found.state is State.WARNING
    assert found.flags == ("--ipc=host",)


def test_limits_of_the_first_cgroups(healthy: Host) -> None:
    (healthy.root / "sys/fs/cgroup/cpu.max").unlink()
    (healthy.root / "sys/fs/cgroup/memory.max").unlink()
    for folder, names in {
        "cpu": {"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"},
        "memory": {"memory.limit_in_bytes": f"{8 * GIB}\n", "memory.usage_in_bytes": f"{7 * GIB}\n"},
    }.items():
        (healthy.root / "sys/fs/cgroup" / folder).mkdir()
        for name, text in names.items():
            (healthy.root / "sys/fs/cgroup" / folder / name).write_text(text)
    assert "2 (limited; 16" in said(healthy, "processors").detail
    assert said(healthy, "memory").detail == "1.0 GiB of 8.0 GiB free (a limit of the container)"
    (healthy.root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1\n")
    (healthy.root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert said(healthy, "processors").state is State.GOOD
    assert "limit" not in said(healthy, "memory").detail


def test_a_host_that_shows_nothing_at_all_does_not_stop_it(tmp_path: Path) -> None:
    findings = look(Host(root=tmp_path))
    assert {"driver", "gpus", "shared-memory", "memory", "disk"} <= {found.id for found in findings}
    assert not fits(findings)


@pytest.mark.parametrize(
    "answer", [{"gpus": "no list"}, {"gpus": [None, 3, {"memory": "much"}]}, {"driver": 7}, {"peers": [{}]}]
)
def test_answers_of_another_shape_do_not_stop_it(healthy: Host, answer: dict[str, object]) -> None:
    findings = look(dataclasses.replace(healthy, nvml=answer, cuda=answer, torch=answer, image=answer))
    assert len(findings) > 10
    assert page(healthy, findings, colour=True)


def test_a_look_that_fails_is_one_row(healthy: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Host) -> Finding:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("envbuild.image.inside.doctor.main.LOOKS", (("driver", fails), *LOOKS[1:]))
    findings = look(healthy)
    assert findings[0].state is State.UNKNOWN
    assert "RuntimeError: unforeseen" in findings[0].detail
    assert len(findings) == len(LOOKS)


@pytest.mark.parametrize(
    ("gpu", "code", "ptx", "reached"),
    [
        ("9.0", {"9.0"}, set(), "code"),
        ("8.9", {"8.0", "9.0"}, set(), "code"),
        ("8.0", {"8.6"}, set(), None),
        ("10.0", {"9.0"}, {"9.0"}, "PTX"),
        ("7.0", {"8.0"}, {"8.0"}, None),
        ("12.0", {"10.0"}, set(), None),
    ],
)
def test_which_code_runs_on_which_gpu(gpu: str, code: set[str], ptx: set[str], reached: str | None) -> None:
    assert reach_of(gpu, code, ptx) == reached


def test_the_report_for_programs(healthy: Host) -> None:
    host = environ(healthy, CUDA_VISIBLE_DEVICES="-1")
    document = json.loads(json.dumps(report(host, look(host))))
    assert document["schema"] == 1
    assert document["fits"] is False
    assert document["image"] == IMAGE
    rows = {row["id"]: row for row in document["findings"]}
    assert rows["variables"]["state"] == "problem"
    assert set(rows["gpus"]) == {"id", "state", "detail", "fix", "flags", "facts"}


def test_the_page_for_people(healthy: Host) -> None:
    host = dataclasses.replace(healthy, limits={"memlock": (65536, 65536), "nofile": (1024, 1024)})
    text = page(host, look(host), colour=False)
    assert text.startswith("pytorch-cuda:v2.7 on this host\n")
    assert "add to docker run: --ulimit memlock=-1 --ulimit nofile=65536:65536\n" in text
    assert "\x1b" not in text
    assert "\x1b[33mwarning" in page(host, look(host), colour=True)
