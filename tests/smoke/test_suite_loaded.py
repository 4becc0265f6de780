"""``loaded``: real shared objects in a real process; what is mapped counts, not what is installed."""

from __future__ import annotations

import pytest

from envbuild.smoke.maps import mapped_libraries


def test_one_pinned_copy_of_each_passes_and_says_its_version(cuda_place):
    numbers = cuda_place.ask("loaded").passed("loaded")
    seen = {stem: found["version"] for stem, found in numbers["libraries"].items()}
    assert seen == {"libcudart": "12.6", "libcublas": "12.6.4", "libcudnn": "9.5.1", "libnccl": "2.26.2"}


def _also_load(place, path):
    """Let the environment's torch map one more object."""
    module = place.site / "torch/__init__.py"
    module.write_text(module.read_text() + f"\nloaded.append(ctypes.CDLL({str(path)!r}))\n")


@pytest.mark.parametrize("name", ["libcudart.so.12", "libcudnn.so.9", "libnccl.so.2", "libcublas.so.12"])
def test_a_second_copy_that_is_mapped_fails_and_names_both(cuda_place, compile_c, name):
    other = compile_c(cuda_place.root / "usr-local-cuda" / name, "int other;", "-Wl,-soname,other")
    _also_load(cuda_place, other)
    found = cuda_place.ask("loaded").failed("loaded", str(other), "LD_LIBRARY_PATH")
    assert str(cuda_place.site) in found["seen"]


def test_a_second_copy_by_ld_preload_fails(cuda_place, compile_c):
    other = compile_c(cuda_place.root / "preload" / "libcudart.so.12", "int other;", "-Wl,-soname,other")
    cuda_place.environ["LD_PRELOAD"] = str(other)
    answer = cuda_place.ask("loaded")
    answer.failed("loaded", str(other))
    assert answer.report["environment"]["LD_PRELOAD"] == str(other)


def test_an_unpinned_library_twice_fails_too(cuda_place, compile_c):
    for folder in ("one", "two"):
        _also_load(
            cuda_place,
            compile_c(cuda_place.root / folder / "libcufft.so.11", "int x;", f"-Wl,-soname,{folder}"),
        )
    cuda_place.ask("loaded").failed("loaded", "one/libcufft.so.11", "two/libcufft.so.11")


def test_a_library_that_says_another_version_fails(cuda_place, compile_c):
    target = cuda_place.site / "nvidia/lib/libnccl.so.2"
    compile_c(target, "int ncclGetVersion(int *v) { *v = 22703; return 0; }", "-Wl,-soname,libnccl.so.2")
    cuda_place.ask("loaded").failed("loaded", "libnccl 2.27.3 from", "libnccl 2.26.2 (nvidia-nccl-cu12)")


def test_a_library_from_outside_of_its_package_fails(cuda_place):
    path = cuda_place.site / "nvidia/lib/libcudnn.so.9"
    other = cuda_place.root / "elsewhere" / path.name
    other.parent.mkdir()
    path.rename(other)
    _also_load(cuda_place, other)
    cuda_place.ask("loaded").failed("loaded", "libcudnn from the files of nvidia-cudnn-cu12", str(other))


def test_a_library_that_is_not_mapped_fails(cuda_place):
    (cuda_place.site / "nvidia/lib/libnccl.so.2").unlink()
    cuda_place.ask("loaded").failed("loaded", "libnccl is not mapped")


def test_a_cpu_build_of_torch_fails(cuda_place):
    module = cuda_place.site / "torch/__init__.py"
    module.write_text(module.read_text().replace('cuda = "12.6"', "cuda = None"))
    cuda_place.ask("loaded").failed("loaded", "built for CUDA None", "a CPU wheel has the same name")


def test_torch_for_another_cuda_fails(cuda_place):
    cuda_place.expect["cuda"] = "12.8"
    cuda_place.ask("loaded").failed("loaded", "torch built for CUDA 12.8")


def test_torch_with_a_copy_of_its_own_fails(cuda_place):
    module = cuda_place.site / "torch/__init__.py"
    module.write_text(module.read_text().replace("(2, 26, 2)", "(2, 21, 5)"))
    cuda_place.ask("loaded").failed("loaded", "torch says 2.21.5")


def test_maps_are_read_as_the_kernel_writes_them():
    text = (
        "7f00-7f01 r-xp 00000000 fe:00 12 /a b/libcudart.so.12\n"
        "7f01-7f02 r--p 00001000 fe:00 12 /a b/libcudart.so.12\n"
        "7f02-7f03 rw-p 00000000 00:00 0 \n"
        "7f03-7f04 rw-p 00000000 00:00 0 [heap]\n"
        "7f04-7f05 r-xp 00000000 fe:00 13 /x/libcudnn.so.9 (deleted)\n"
        "7f05-7f06 r-xp 00000000 fe:00 14 /usr/lib/libcuda.so.1\n"
        "7f06-7f07 r-xp 00000000 fe:00 15 /x/libcublasLt.so.12\n"
    )
    found = {stem: [str(path) for path in paths] for stem, paths in mapped_libraries(text).items()}
    assert found == {
        "libcudart": ["/a b/libcudart.so.12"],
        "libcudnn": ["/x/libcudnn.so.9 (deleted)"],
        "libcublasLt": ["/x/libcublasLt.so.12"],
    }
