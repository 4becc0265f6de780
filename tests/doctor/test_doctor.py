"""What the doctor sees, what it calls missing, and what it says to do about it."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from envbuild.doctor import Finding, Report, State, engines, examine, gpus, machine, sources
from envbuild.engine.oci import find_runtime
from envbuild.errors import EnvbuildError
from envbuild.progress import SilentProgress

IDS = [
    "docker",
    "docker-gpus",
    "oci",
    "sandbox",
    "overlay",
    "inflate",
    "gpus",
    "driver",
    "driver-files",
    "shared-memory",
    "locked-memory",
    "store",
    "apt",
    "gpgv",
    "keyring",
    "debian-mirror",
    "python-index",
    "proxies",
    "certificates",
]


@pytest.fixture
def server() -> Iterator[str]:
    """A web server that answers everything below /good and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/good") else 404)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


def environ(server: str, tmp_path: Path, **more: str) -> dict[str, str]:
    """A machine whose every address is the server's, and whose engine is nowhere."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DOCKER_HOST": f"unix://{tmp_path}/no.sock",
        "ENVBUILD_PYTHON_INDEX": f"{server}/good/simple",
        "ENVBUILD_DEBIAN_MIRROR": f"{server}/good/debian",
        **more,
    }


def test_everything_is_looked_at_in_a_fixed_order(server: str, tmp_path: Path) -> None:
    store = tmp_path / "not" / "there"
    report = examine(store, environ(server, tmp_path), SilentProgress())
    assert [finding.id for finding in report.findings] == IDS
    assert not store.exists(), "looking made the store"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".envbuild")] == []


def test_json_has_the_documented_form(server: str, tmp_path: Path) -> None:
    value = json.loads(json.dumps(examine(tmp_path, environ(server, tmp_path), SilentProgress()).to_dict()))
    assert value["schema"] == 1
    assert set(value) == {"schema", "ready", "findings"}
    assert set(value["ready"]) == {"lock", "build", "run", "prove"}
    for finding in value["findings"]:
        assert set(finding) == {"id", "state", "detail", "fix", "facts"}
        assert finding["state"] in ("good", "warning", "missing")
        assert "\n" not in finding["detail"]
        if finding["state"] == "missing":
            assert finding["fix"], f"{finding['id']} is missing and nothing says how to get it"
    documented = Path(__file__).parents[2].joinpath("docs/reference/doctor.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", documented, re.MULTILINE) == IDS


def test_no_address_is_shown(server: str, tmp_path: Path) -> None:
    secret = server.replace("http://", "http://someone:hunter2@")
    env = environ(
        server, tmp_path, ENVBUILD_PYTHON_INDEX=f"{secret}/bad", ENVBUILD_DEBIAN_MIRROR=f"{secret}/bad"
    )
    env |= {"https_proxy": "http://someone:hunter2@127.0.0.1:9", "no_proxy": "127.0.0.1"}
    report = examine(tmp_path, env, SilentProgress())
    assert report["python-index"].state is State.MISSING
    assert report["debian-mirror"].state is State.MISSING
    for shown in (report.text(), json.dumps(report.to_dict())):
        assert "hunter2" not in shown
        assert "127.0.0.1" not in shown


def test_a_good_machine_is_ready(server: str, tmp_path: Path) -> None:
    report = examine(tmp_path, environ(server, tmp_path), SilentProgress())
    assert report["python-index"].state is State.GOOD
    assert report["debian-mirror"].state is State.GOOD
    assert report["sandbox"].state is State.GOOD
    assert report["overlay"].state is State.GOOD
    assert report["docker"].state is State.MISSING
    assert report["docker"].facts["error"] == "docker-not-running"
    assert report.ready == {
        "lock": True,
        "build": True,
        "run": True,
        "prove": bool(report["gpus"].facts["count"]),
    }


def test_each_finding_is_one_line_whatever_was_seen() -> None:
    told = Finding(
        id="docker", state=State.MISSING, detail="no answer\n✓  gpus  8: NVIDIA H200", fix="start it"
    )
    lines = Report(findings=(told,)).text().splitlines()
    assert lines[0] == "✗  docker  no answer; ✓  gpus  8: NVIDIA H200"
    assert not [line for line in lines if line.startswith("✓")]


def report_of(states: Mapping[str, State]) -> Report:
    return Report(
        findings=tuple(
            Finding(id=name, state=states.get(name, State.GOOD), detail="x", fix="do") for name in IDS
        )
    )


@pytest.mark.parametrize(
    ("missing", "not_ready"),
    [
        ((), set()),
        (("docker",), set()),
        (("docker", "oci"), set()),
        (("docker", "oci", "sandbox"), {"build", "run", "prove"}),
        (("sandbox",), {"build"}),
        (("overlay",), {"build"}),
        (("gpus",), {"prove"}),
        (("driver",), {"prove"}),
        (("python-index",), {"lock"}),
        (("gpgv",), {"lock"}),
        (("store",), {"lock", "build", "run", "prove"}),
    ],
)
def test_what_follows_from_what_is_missing(missing: tuple[str, ...], not_ready: set[str]) -> None:
    report = report_of(dict.fromkeys(missing, State.MISSING))
    assert {job for job, can in report.ready.items() if not can} == not_ready
    for name in missing:
        assert f"✗  {name}" in report.text()
    assert report.text().count("→ do") == len(missing)


def test_a_warning_does_not_stop_anything() -> None:
    report = report_of(dict.fromkeys(IDS, State.WARNING))
    assert all(report.ready.values())


@pytest.mark.parametrize(
    ("version", "state", "cuda12", "cuda13"),
    [
        ("580.159.04", State.GOOD, True, True),
        ("580.65.06", State.GOOD, True, True),
        ("580.65.05", State.WARNING, True, False),
        ("550.54.15", State.WARNING, True, False),
        ("525.60.13", State.WARNING, True, False),
        ("525.60.12", State.MISSING, False, False),
        ("470.256.02", State.MISSING, False, False),
    ],
)
def test_drivers_against_the_floors(
    tmp_path: Path, version: str, state: State, cuda12: bool, cuda13: bool
) -> None:
    folder = tmp_path / "usr/local/nvidia/lib64"
    folder.mkdir(parents=True)
    (folder / "libcuda.so.1").touch()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Nov  1 00:00:00 UTC 2026\n"
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    found = gpus.driver(tmp_path)
    assert found.state is state
    assert found.facts == {"version": version, "cuda12": cuda12, "cuda13": cuda13}
    if not cuda13:
        assert "CUDA 13 needs 580.65.06" in found.detail
    if not cuda12:
        assert "CUDA 12 needs 525.60.13" in found.detail


def gpu_machine(root: Path, answer: str) -> Path:
    (root / "dev").mkdir()
    (root / "usr/bin").mkdir(parents=True)
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (root / "dev" / node).touch()
    smi = root / "usr/bin/nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{answer}\n")
    smi.chmod(stat.S_IRWXU)
    return root


def test_gpus_by_name(tmp_path: Path) -> None:
    found = gpus.gpus(gpu_machine(tmp_path, "echo 'NVIDIA H200, 143771'; echo 'NVIDIA H200, 143771'"))
    assert found.state is State.GOOD
    assert found.facts["gpus"] == [{"name": "NVIDIA H200", "memory_mib": 143771}] * 2
    assert found.facts["count"] == 2


def test_an_nvidia_smi_that_fails_hides_no_gpu(tmp_path: Path) -> None:
    found = gpus.gpus(gpu_machine(tmp_path, "echo 'Failed to initialize NVML'; exit 9"))
    assert found.facts["count"] == 2
    assert "does not answer" in found.detail


def test_gpus_without_uvm_do_not_count(tmp_path: Path) -> None:
    root = gpu_machine(tmp_path, "exit 0")
    (root / "dev/nvidia-uvm").unlink()
    found = gpus.gpus(root)
    assert found.state is State.MISSING
    assert found.fix
    assert "nvidia-modprobe" in found.fix


def driver_folder(root: Path, *names: str) -> Path:
    """A machine with a GPU and these files in its driver's folder."""
    folder = gpu_machine(root, "echo 'NVIDIA H200, 143771'") / "usr/local/nvidia/lib64"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


WHOLE = ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1")


def test_a_driver_folder_without_libcuda_so_is_named_with_the_way_out(tmp_path: Path) -> None:
    folder = driver_folder(tmp_path, *(name for name in WHOLE if name != "libcuda.so"))
    found = gpus.driver_files(tmp_path)
    assert found.state is State.WARNING
    assert found.detail.startswith(f"{folder} has libcuda.so.1 but no libcuda.so, with which Triton links")
    assert f"ln -s libcuda.so.1 {folder}/libcuda.so" in str(found.fix)
    assert "libcuda.so" in found.facts["libraries"], "what a container of oci or sandbox gets"


def test_what_a_container_would_get_of_a_whole_driver_is_told(tmp_path: Path) -> None:
    driver_folder(tmp_path, *WHOLE)
    found = gpus.driver_files(tmp_path)
    assert (found.state, found.fix) == (State.GOOD, None)
    assert found.detail == "3 libraries with libcuda.so, and nvidia-smi"


@pytest.mark.parametrize("gone", ["libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"])
def test_a_library_that_the_driver_lacks_is_named(tmp_path: Path, gone: str) -> None:
    driver_folder(tmp_path, *(name for name in WHOLE if name != gone))
    found = gpus.driver_files(tmp_path)
    assert found.state is (State.MISSING if gone == "libcuda.so.1" else State.WARNING)
    assert gone in found.detail
    assert found.fix


def test_docker_without_the_toolkit_on_a_gpu_machine(tmp_path: Path) -> None:
    root = gpu_machine(tmp_path, "exit 0")
    empty = {"PATH": str(tmp_path)}
    expected = State.GOOD if Path("/usr/bin/nvidia-ctk").exists() else State.WARNING
    assert engines.docker_gpus(empty, root).state is expected
    assert engines.docker_gpus(empty, tmp_path / "dev").state is State.GOOD


def test_a_machine_without_gpgv_and_keyring(tmp_path: Path) -> None:
    empty = {"PATH": str(tmp_path), "ENVBUILD_DEBIAN_KEYRING": str(tmp_path / "none.gpg")}
    assert sources.gpgv(empty).state is State.MISSING
    assert sources.keyring(empty).state is State.MISSING
    assert sources.apt(empty).state is State.WARNING
    assert sources.apt({**empty, "ENVBUILD_DEBIAN_MIRROR": "http://127.0.0.1/x"}).state is State.GOOD


def test_certificates_that_are_not_there(tmp_path: Path) -> None:
    found = sources.certificates({"SSL_CERT_FILE": str(tmp_path / "none.pem")})
    assert found.state is State.MISSING
    assert "SSL_CERT_FILE" in found.detail


def test_proxies_are_named_and_not_shown() -> None:
    found = sources.proxies({"HTTPS_PROXY": "http://u:p@proxy", "no_proxy": ""})
    assert found.facts["variables"] == ["HTTPS_PROXY"]
    assert "u:p" not in found.detail


def test_a_wrong_address_is_a_finding(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ENVBUILD_PYTHON_INDEX": "nonsense"}
    found = sources.python_index(env)
    assert found.state is State.MISSING
    assert found.fix
    assert "ENVBUILD_PYTHON_INDEX" in found.detail + found.fix


def test_a_small_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DISK_NEEDED", 1 << 60)
    found = machine.store(tmp_path / "x" / "y")
    assert found.state is State.WARNING
    assert found.facts["exists"] is False
    assert found.fix
    assert "--store" in found.fix


def test_a_file_system_that_overlayfs_cannot_use(tmp_path: Path) -> None:
    """/proc cannot hold the folders at all: the finding says so instead of raising."""
    found = engines.overlay(Path("/proc/none"))
    assert found.state is State.MISSING
    assert found.fix


def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """shutil.which takes an empty name between colons for it."""
    for name in ("unpigz", "igzip", "crun", "runc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert engines.inflate({"PATH": ""}) == engines.inflate({})
    with suppress(EnvbuildError):  # a machine without any
        assert find_runtime({"PATH": ""}).parent != tmp_path
