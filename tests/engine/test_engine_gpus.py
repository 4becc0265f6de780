"""The driver as it is found on a machine, and as a container sees it."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import tinyimage
from needed import need

from envbuild.engine import Engine, ImageRef, RunCommand, Streams, detect
from envbuild.engine.gpus import LIBRARY_FOLDER, Driver, find_driver, with_libraries
from envbuild.engine.loader import CACHE, SETTING
from envbuild.engine.model import Gpus
from envbuild.engine.oci import OciRuntime
from envbuild.engine.roots import Prepared, Roots
from envbuild.engine.sandbox import SandboxEngine
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress
from envbuild.sandbox import Sandbox
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
    named = {f"{stem}.{end}" for stem in stems for end in ("1", "580.159.04")}
    assert set(driver.libraries) == {*named, "libcuda.so"}
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
    assert driver == Driver(
        version=None, gpus=(), common=(), libraries={}, programs={}, firmware={}, sockets={}
    )
    with pytest.raises(EnvbuildError) as caught:
        driver.devices(1)
    assert "/dev/nvidia<N>" in caught.value.message


def test_the_name_without_a_version_is_there_though_the_driver_has_none(machine: Path) -> None:
    folder = machine / "usr/local/nvidia/lib64"
    assert not (folder / "libcuda.so").exists()
    mounts = {mount.target: mount.source for mount in find_driver(machine).mounts()}
    assert mounts[f"{LIBRARY_FOLDER}/libcuda.so"] == folder / "libcuda.so.580.159.04"
    assert f"{LIBRARY_FOLDER}/libnvidia-ml.so" not in mounts


def test_a_library_without_its_link_gets_the_name_that_the_loader_asks_for(machine: Path) -> None:
    folder = machine / "usr/local/nvidia/lib64"
    for link in folder.glob("*.so.1"):
        link.unlink()
    library = folder / "libcuda.so.580.159.04"
    shared_object(library, soname="libcuda.so.1")
    driver = find_driver(machine)
    assert driver.libraries["libcuda.so.1"] == driver.libraries["libcuda.so"] == library
    assert "libnvidia-ml.so.1" not in driver.libraries, "an empty file tells no name"


def test_of_two_versions_that_of_the_loaded_driver_is_taken(machine: Path) -> None:
    old = machine / "usr/lib64/nvidia"
    old.mkdir(parents=True)
    mine = machine / "usr/local/nvidia/lib64"
    for path in mine.glob("libcuda.so*"):
        path.rename(old / path.name)
    (mine / "libcuda.so.535.54.03").touch()
    (mine / "libcuda.so.1").symlink_to("libcuda.so.535.54.03")
    libraries = find_driver(machine).libraries
    assert libraries["libcuda.so.1"] == libraries["libcuda.so"] == old / "libcuda.so.580.159.04"
    assert "libcuda.so.535.54.03" not in libraries


PROGRAMS = (
    *("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced"),
    *("nvidia-cuda-mps-control", "nvidia-cuda-mps-server"),
)


def test_the_programs_of_the_driver_lie_on_path(machine: Path) -> None:
    for number, name in enumerate(PROGRAMS):
        folder = machine / ("usr/bin" if number % 2 else "usr/local/nvidia/bin")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (machine / "usr/bin/nvidia-settings").touch()
    targets = {
        mount.target for mount in find_driver(machine).mounts() if mount.target.startswith("/usr/bin/")
    }
    assert targets == {f"/usr/bin/{name}" for name in PROGRAMS}


def test_firmware_is_that_of_the_loaded_driver(machine: Path) -> None:
    for name in ("580.159.04/gsp_ga10x.bin", "580.159.04/other.bin", "535.54.03/gsp_ga10x.bin"):
        path = machine / "lib/firmware/nvidia" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (mount,) = (mount for mount in find_driver(machine).mounts() if "firmware" in mount.target)
    assert mount.target == "/lib/firmware/nvidia/580.159.04/gsp_ga10x.bin"
    assert mount.read_only


def test_sockets_are_handed_over_where_the_daemons_run(machine: Path) -> None:
    assert not [mount for mount in find_driver(machine).mounts() if "socket" in mount.target]
    names = ("run/nvidia-persistenced/socket", "run/nvidia-fabricmanager/socket", "tmp/nvidia-mps/control")
    for name in names:
        (machine / name).parent.mkdir(parents=True)
        (machine / name).touch()
    found = {mount.target: mount for mount in find_driver(machine).mounts()}
    for target in ("/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket", "/tmp/nvidia-mps"):
        assert found[target].source == machine / target[1:]
        assert not found[target].read_only


def shared_object(path: Path, *, soname: str, code: str = "int cuInit(int x) { return 47; }") -> None:
    path.unlink(missing_ok=True)
    source = path.with_suffix(".c")
    source.write_text(code)
    subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", path, source], check=True)
    source.unlink()


class WithoutNodes(Roots):
    """Roots of a machine whose driver is a stand-in: everything is prepared but its device nodes, which nobody has."""

    def prepare(
        self, image: ImageRef, command: RunCommand, passes: Mapping[str, str], folder: Path
    ) -> Prepared:
        return dataclasses.replace(super().prepare(image, command, passes, folder), devices=())


ASKS = """#include <dlfcn.h>
#include <stdio.h>
int main(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) { puts(dlerror()); return 1; }
  printf("cuInit %d\\n", ((int (*)(int)) dlsym(library, "cuInit"))(0));
  return 0;
}
"""


@pytest.fixture
def glibc_image(store: Store, make_image: Callable[..., ImageRef], tmp_path: Path) -> ImageRef:
    """An image with glibc's loader, ldconfig, and a program that loads libcuda.so.1 by its name."""
    program = tmp_path / "asks"
    program.with_suffix(".c").write_text(ASKS)
    subprocess.run(["gcc", "-o", program, program.with_suffix(".c")], check=True)
    words = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
    files: tinyimage.Files = {
        word.lstrip("/"): Path(word).read_bytes() for word in words if word.startswith("/")
    }
    files |= {"bin/asks": program.read_bytes(), "sbin/ldconfig": Path("/sbin/ldconfig").read_bytes()}
    files |= {"etc/ld.so.conf": b"include /etc/ld.so.conf.d/*.conf\n", "etc/ld.so.conf.d/": b""}
    modes = {"etc/ld.so.conf": 0o644}
    return make_image(tinyimage.tar_layer(store.layout, "glibc", files, modes))


Ask = Callable[..., tuple[int, str]]


@pytest.fixture(params=["crun", "runc", "sandbox"])
def ask(request: pytest.FixtureRequest, store: Store, machine: Path, tmp_path: Path) -> Ask:
    """Run a shell command in a container that was given the stand-in driver."""
    shared_object(machine / "usr/local/nvidia/lib64/libcuda.so.580.159.04", soname="libcuda.so.1")
    roots = WithoutNodes(store=store, sandbox=Sandbox.detect(), jobs=2, machine=machine)
    if request.param == "sandbox":
        engine: Engine = SandboxEngine(roots, {})
    else:
        engine = OciRuntime(Path(need(request.param)), roots, {})

    def run(image: ImageRef, script: str, *, gpus: Gpus = "all") -> tuple[int, str]:
        engine.load(image, SilentProgress())
        command = RunCommand(argv=("sh", "-c", script), env={"PATH": "/bin:/sbin"}, gpus=gpus, network=False)
        with (tmp_path / "said").open("w+b") as out:
            status = engine.run(image, command, Streams(stdin=0, stdout=out.fileno(), stderr=out.fileno()))
            out.seek(0)
            return status, out.read().decode()

    return run


def test_a_container_links_and_loads_the_driver_also_with_an_emptied_environment(
    ask: Ask, glibc_image: ImageRef
) -> None:
    assert ask(glibc_image, "asks") == (0, "cuInit 47\n")
    assert ask(glibc_image, "env -i /bin/asks") == (0, "cuInit 47\n")
    status, listed = ask(glibc_image, "ldconfig -p")
    assert status == 0
    assert f"libcuda.so.1 (libc6,x86-64) => {LIBRARY_FOLDER}/libcuda.so.1\n" in listed
    assert ask(glibc_image, "asks", gpus=0)[0] == 1, "without GPUs nothing of the driver is there"


def test_ldconfig_still_works_in_the_container_and_keeps_the_driver(ask: Ask, glibc_image: ImageRef) -> None:
    """What apt-get install ends with: it replaces the cache's file."""
    script = (
        f"ldconfig 2>/dev/null && env -i /bin/asks && ls -l /{CACHE} /{SETTING} && stat -c '%a %u' / /etc"
    )
    status, said = ask(glibc_image, script)
    assert (status, said.splitlines()[0]) == (0, "cuInit 47"), said
    assert said.splitlines()[-2:] == ["755 0", "755 0"]


def test_the_name_that_lcuda_asks_for_is_in_the_container(ask: Ask, glibc_image: ImageRef) -> None:
    status, said = ask(glibc_image, f"ls {LIBRARY_FOLDER}")
    assert status == 0
    assert {"libcuda.so", "libcuda.so.1", "libcuda.so.580.159.04"} <= set(said.split())


def test_an_image_without_ldconfig_has_the_path_alone(ask: Ask, make_image: Callable[..., ImageRef]) -> None:
    status, said = ask(
        make_image(), f"echo $LD_LIBRARY_PATH; ls {LIBRARY_FOLDER}/libcuda.so; ls /{CACHE} 2>/dev/null"
    )
    assert said.splitlines()[:2] == [LIBRARY_FOLDER, f"{LIBRARY_FOLDER}/libcuda.so"]
    assert status == 1


def test_a_link_in_place_of_the_loaders_cache_is_not_followed_on_this_machine(
    ask: Ask, store: Store, make_image: Callable[..., ImageRef], tmp_path: Path
) -> None:
    """The image's own ldconfig runs for the driver's sake, and may be anything."""
    host = tmp_path / "host"
    host.write_text("secret")
    host.chmod(0o600)
    script = f'#!/bin/sh\nbusybox ln -sf {host} "$5"\n'
    image = make_image(tinyimage.tar_layer(store.layout, "hostile", {"sbin/ldconfig": script.encode()}))
    assert ask(image, f"cat /{CACHE}")[0] == 1
    assert (host.read_text(), host.stat().st_mode & 0o777) == ("secret", 0o600)


def test_a_daemons_socket_is_one_in_the_container(
    ask: Ask, make_image: Callable[..., ImageRef], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = machine / "run/nvidia-persistenced/socket"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(path.parent)  # a socket's path has at most 107 bytes
        server.bind("socket")
        status, said = ask(make_image(), "stat -c %F /run/nvidia-persistenced/socket")
    assert (status, said) == (0, "socket\n")


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
    own = [str(path) for path in (*driver.programs.values(), *driver.libraries.values())]
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
