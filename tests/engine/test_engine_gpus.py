"""The driver as it is found on a machine, and as a container sees it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import tinyimage

from envbuild.engine import Engine, ImageRef, RunCommand, Streams, detect
from envbuild.engine.gpus import LIBRARY_FOLDER, Driver, find_driver, with_libraries
from envbuild.engine.model import Gpus
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress
from envbuild.store import Store

VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root folder as on a machine with two GPUs whose driver lies in a folder of its own."""
    nodes = [
        "nvidia0",
        "nvidia10",
        "nvidia2",
        "nvidiactl",
        "nvidia-uvm",
        "nvidia-uvm-tools",
        "nvidia-caps/nvidia-cap1",
    ]
    libraries = tmp_path / "usr/local/nvidia/lib64"
    libraries.mkdir(parents=True)
    for path in (*(f"dev/{node}" for node in nodes), "usr/local/nvidia/bin/nvidia-smi", "etc/ld.so.cache"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for name in (
        "libcuda.so.580.159.04",
        "libnvidia-ml.so.580.159.04",
        "libnvidia-ptxjitcompiler.so.580.159.04",
    ):
        (libraries / name).touch()
        (libraries / f"{name.removesuffix('.580.159.04')}.1").symlink_to(name)
    for stranger in ("libc.so.6", "libGLX_nvidia.so.0", "libcudart.so.12", "libnccl.so.2"):
        (libraries / stranger).touch()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(VERSION)
    return tmp_path


def test_what_is_found(machine: Path) -> None:
    driver = find_driver(machine)
    assert driver.version == "580.159.04"
    assert driver.gpus == ("/dev/nvidia0", "/dev/nvidia2", "/dev/nvidia10")
    assert driver.common == (
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
        "/dev/nvidia-uvm-tools",
        "/dev/nvidia-caps/nvidia-cap1",
    )
    stems = ("libcuda.so", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so")
    assert set(driver.libraries) == {f"{stem}.{end}" for stem in stems for end in ("1", "580.159.04")}
    assert driver.smi == machine / "usr/local/nvidia/bin/nvidia-smi"


def test_only_the_drivers_own_libraries_enter_the_container(machine: Path) -> None:
    mounts = find_driver(machine).mounts()
    assert all(mount.read_only for mount in mounts)
    targets = {mount.target for mount in mounts}
    assert f"{LIBRARY_FOLDER}/libcuda.so.1" in targets
    assert "/usr/bin/nvidia-smi" in targets
    assert not any("libc.so" in target or "cudart" in target or "nccl" in target for target in targets)


@pytest.mark.parametrize(
    ("asked", "nodes"),
    [
        ("all", ["/dev/nvidia0", "/dev/nvidia2", "/dev/nvidia10"]),
        (1, ["/dev/nvidia0"]),
        (2, ["/dev/nvidia0", "/dev/nvidia2"]),
    ],
)
def test_devices_for_a_request(machine: Path, asked: Gpus, nodes: list[str]) -> None:
    driver = find_driver(machine)
    assert list(driver.devices(asked)) == [*driver.common, *nodes]


def test_too_few(machine: Path) -> None:
    with pytest.raises(EnvbuildError) as caught:
        find_driver(machine).devices(4)
    assert (caught.value.id, caught.value.exit) == ("too-few-gpus", Exit.ENGINE)
    assert "this machine has 3" in caught.value.message


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("dev/nvidiactl", "/dev/nvidiactl"),
        ("dev/nvidia-uvm", "/dev/nvidia-uvm"),
        ("usr/local/nvidia/lib64/libcuda.so.1", "libcuda.so.1"),
    ],
)
def test_a_part_that_is_missing_is_named(machine: Path, gone: str, named: str) -> None:
    (machine / gone).unlink()
    with pytest.raises(EnvbuildError) as caught:
        find_driver(machine).devices("all")
    assert caught.value.id == "no-gpus"
    assert named in caught.value.message


def test_nothing_at_all(tmp_path: Path) -> None:
    driver = find_driver(tmp_path)
    assert driver == Driver(version=None, gpus=(), common=(), libraries={}, smi=None)
    with pytest.raises(EnvbuildError) as caught:
        driver.devices(1)
    assert "/dev/nvidia<N>" in caught.value.message


def test_the_loaders_path_keeps_what_the_image_set() -> None:
    assert with_libraries({"LD_LIBRARY_PATH": "/own"})["LD_LIBRARY_PATH"] == f"{LIBRARY_FOLDER}:/own"
    assert with_libraries({})["LD_LIBRARY_PATH"] == LIBRARY_FOLDER


def is_system_library(word: str) -> bool:
    """A path in ldd's output, but none of the driver's: those must come from the engine."""
    return word.startswith("/") and not word.endswith(":") and "nvidia" not in word and "libcuda" not in word


def python_layer(layout: Layout) -> tuple[object, str]:
    """A layer with this machine's Python, its standard library and what they are linked against."""
    binary = os.path.realpath(sys.executable)
    library = sysconfig.get_path("stdlib")
    files: tinyimage.Files = {}
    driver = find_driver()
    own = [str(path) for path in (driver.smi, *driver.libraries.values()) if path is not None]
    linked = [binary, *own, *map(str, Path(library, "lib-dynload").glob("_ctypes*.so"))]
    for path in linked:
        words = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout.split()
        files |= {word.lstrip("/"): Path(word).read_bytes() for word in words if word.startswith("/")}
    for path in (
        binary,
        *map(str, Path(library).rglob("*.py")),
        *map(str, Path(library, "lib-dynload").glob("*.so")),
    ):
        if "site-packages" not in path and "/test/" not in path:
            files[path.lstrip("/")] = Path(path).read_bytes()
    return tinyimage.tar_layer(layout, "python", files), binary


CODE = (
    "import ctypes; cuda = ctypes.CDLL('libcuda.so.1'); n = ctypes.c_int(); "
    "print(cuda.cuInit(0), cuda.cuDeviceGetCount(ctypes.byref(n)), n.value)"
)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["oci", "sandbox"])
def test_cuda_in_a_container(
    name: str, store: Store, make_image: Callable[..., ImageRef], tmp_path: Path
) -> None:
    if not find_driver().gpus:
        pytest.skip("this machine has no NVIDIA GPU")
    layer, python = python_layer(store.layout)
    image = make_image(layer)
    engine: Engine = detect(name, store, os.environ, jobs=2)[0]
    engine.load(image, SilentProgress())
    have = len(find_driver().gpus)
    for asked, seen in ((1, 1), ("all", have)):
        command = RunCommand(argv=(python, "-I", "-c", CODE), gpus=asked, network=False)
        with (tmp_path / "out").open("w+b") as out:
            status = engine.run(image, command, Streams(stdin=0, stdout=out.fileno(), stderr=2))
            out.seek(0)
            assert (status, out.read().decode()) == (0, f"0 0 {seen}\n")
    with (tmp_path / "smi").open("w+b") as out:
        command = RunCommand(
            argv=("nvidia-smi", "-L"), env={"PATH": "/bin:/usr/bin"}, gpus="all", network=False
        )
        assert engine.run(image, command, Streams(stdin=0, stdout=out.fileno(), stderr=2)) == 0
        out.seek(0)
        assert out.read().decode().count("GPU ") == have
