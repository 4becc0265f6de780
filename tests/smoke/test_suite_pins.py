"""Declared = resolved = installed = loaded, in every process, and no further copy where a program would find it."""

from __future__ import annotations

import pytest

from envbuild.smoke.checks.loaded import judge_pins
from envbuild.smoke.copies import loader_folders
from envbuild.smoke.model import Failure

LIBRARY = "libcudnn.so.9"


def _copy(place, folder, name=LIBRARY):
    """Another copy of a library somewhere on the disk, that nothing maps."""
    target = place.root / folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"\x7fELF")
    return target


def test_every_pin_is_told_from_the_recipe_to_the_process(cuda_place):
    cuda_place.expect["declared"] = {"torch": "2.7.1", "libcudart": "12.6", "libcudnn": "9.5.1.17"}
    pins = {pin["name"]: pin for pin in cuda_place.ask("loaded").passed("loaded")["pins"]}
    assert set(pins) == {"torch", "libcudart", "libcublas", "libcudnn", "libnccl"}
    assert pins["libcudart"] == {
        "name": "libcudart",
        "package": "nvidia-cuda-runtime-cu12",
        "declared": "12.6",
        "resolved": "12.6.77",
        "installed": "12.6.77",
        "loaded": "12.6",
    }
    assert pins["torch"]["loaded"] == "2.7.1+cu126"


@pytest.mark.parametrize(
    ("name", "declared"), [("torch", "2.8.0"), ("libcudart", "12.8"), ("libnccl", "2.27.3")]
)
def test_another_declared_version_fails_and_all_four_are_named(cuda_place, name, declared):
    cuda_place.expect["declared"] = {name: declared}
    cuda_place.ask("loaded").failed(
        "loaded", f"{name}: declared {declared}, resolved ", "installed ", "loaded "
    )


def test_a_module_that_says_another_version_than_its_package_fails(cuda_place):
    cuda_place.install("triton", "3.3.1", {"triton/__init__.py": "__version__ = '3.2.0'\n"})
    cuda_place.expect["imports"] = ["torch", "triton"]
    cuda_place.ask("loaded").failed("loaded", "triton: resolved 3.3.1, installed 3.3.1, loaded 3.2.0")


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (("12.6", "12.6.77", "12.6.77", "12.6"), True),
        ((None, "2.26.2", "2.26.2.post1", "2.26.2"), True),
        (("2.7.1", "2.7.1", "2.7.1", "2.7.1+cu126"), True),
        (("12.6", "12.8.90", "12.8.90", "12.8"), False),
        (("2.7.1", "2.7.1", "2.7.1", "2.7.0+cu126"), False),
        (("9.5.1.17", "9.5.1.17", "9.5.2.1", "9.5.1"), False),
        (("12.6", "12.60.1", "12.60.1", "12.60"), False),
    ],
)
def test_versions_agree_as_far_as_each_goes(said, right):
    keys = ("declared", "resolved", "installed", "loaded")
    pins = [{"name": "x", "package": "x", **dict(zip(keys, said, strict=True))}]
    if right:
        judge_pins(pins, {})
    else:
        with pytest.raises(Failure):
            judge_pins(pins, {})


@pytest.mark.parametrize("folder", ["usr/lib/x86_64-linux-gnu", "opt/other", "venv/lib"])
def test_a_further_copy_on_the_disk_fails_though_nothing_maps_it(cuda_place, folder):
    other = _copy(cuda_place, folder)
    cuda_place.ask("loaded").failed("loaded", str(other), "but under CUDA_HOME")


def test_a_copy_that_a_wheel_brought_in_fails(cuda_place):
    name = "stranger.libs/libcudart-1a2b3c4d.so.12"
    cuda_place.install("stranger", "1.0", {"stranger/__init__.py": "", name: "x"})
    cuda_place.ask("loaded").failed("loaded", "libcudart-1a2b3c4d.so.12")


def test_copies_under_cuda_home_are_the_devel_images_own(cuda_place):
    other = _copy(cuda_place, "usr/local/cuda-12.6/lib64")
    cuda_place.environ["CUDA_HOME"] = str(cuda_place.root / "usr/local/cuda-12.6")
    numbers = cuda_place.ask("loaded").passed("loaded")
    assert numbers["copies"] == {"toolkit": [str(other)], "others": []}


def test_a_toolkit_that_ld_so_conf_names_fails(cuda_place):
    other = _copy(cuda_place, "usr/local/cuda-12.6/lib64")
    cuda_place.environ["CUDA_HOME"] = str(cuda_place.root / "usr/local/cuda-12.6")
    (cuda_place.root / "conf.d").mkdir()
    (cuda_place.root / "ld.so.conf").write_text("include conf.d/*.conf\n")
    (cuda_place.root / "conf.d/cuda.conf").write_text(f"{other.parent}\n")
    cuda_place.ask("loaded").failed("loaded", str(other), "ld.so.conf")


def test_a_toolkit_in_ld_library_path_fails(cuda_place):
    other = _copy(cuda_place, "usr/local/cuda-12.6/lib64")
    cuda_place.environ["CUDA_HOME"] = str(cuda_place.root / "usr/local/cuda-12.6")
    cuda_place.environ["LD_LIBRARY_PATH"] = str(other.parent)
    cuda_place.ask("loaded").failed("loaded", str(other), "LD_LIBRARY_PATH")


def test_the_pinned_copy_may_be_in_ld_library_path(cuda_place):
    cuda_place.environ["LD_LIBRARY_PATH"] = str(cuda_place.site / "nvidia/lib")
    assert cuda_place.ask("loaded").passed("loaded")["copies"] == {"toolkit": [], "others": []}


def test_here_a_copy_that_other_programs_load_is_a_warning(cuda_place):
    other = _copy(cuda_place, "usr/local/cuda-12.6/lib64")
    cuda_place.environ["LD_LIBRARY_PATH"] = str(other.parent)
    cuda_place.expect["complete"] = False
    answer = cuda_place.ask("loaded")
    answer.passed("loaded")
    (warning,) = answer.check("loaded")["warnings"]
    assert str(other) in warning
    assert f"warning: {warning}" in answer.progress


def test_any_check_whose_process_maps_a_second_copy_fails(cuda_place, compile_c):
    """``imports`` does not look for copies; every process is looked at when its check has ended."""
    other = compile_c(cuda_place.root / "elsewhere" / "libnccl.so.2", "int x;", "-Wl,-soname,other")
    cuda_place.install("victim", "1.0", {"victim.py": f"import ctypes\nx = ctypes.CDLL({str(other)!r})\n"})
    cuda_place.expect["imports"] = ["torch", "victim"]
    found = cuda_place.ask("imports").failed("imports", str(other), "one copy of libnccl")
    assert "victim" in found["numbers"]["seconds"]


def test_the_loaders_configuration_is_read_with_what_it_includes(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "ld.so.conf").write_text(
        "# words\n/one # more\ninclude d/*.conf\nhwcap 1 nosegneg\n/two:/three\n"
    )
    (tmp_path / "d/a.conf").write_text("/four\ninclude ../ld.so.conf\n")
    found = loader_folders({"LD_LIBRARY_PATH": "/zero::/five"}, tmp_path / "ld.so.conf")
    assert [str(path) for path in found] == ["/zero", "/five", "/one", "/four", "/two", "/three"]
    assert loader_folders({}, tmp_path / "absent") == []
