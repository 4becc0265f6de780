"""``operator-file``: a CUDA object for the locked architectures, and the only one of its name."""

from __future__ import annotations

import sys

import pytest

from envbuild.smoke.operators import architectures_listed, runs_on, wanted_code

TAG = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
FILE = f"deepspeed/ops/adam/fused_adam_op.{TAG}-x86_64-linux-gnu.so"

MODULE = """
struct head { long count; void *type; };
struct base { struct head head; void *init; long index; void *copy; };
struct method { const char *name; void *function; int flags; const char *doc; };
struct definition { struct base base; const char *name, *doc; long size; struct method *methods; void *rest[4]; };
extern void *PyModule_Create2(struct definition *, int);
extern void *PyLong_FromLong(long);
static void *call(void *self, void *arguments) { return PyLong_FromLong(0); }
static struct method methods[] = {{NAME, call, 1, 0}, {0, 0, 0, 0}};
static struct definition definition = {{{1, 0}, 0, 0, 0}, "fused_adam_op", 0, -1, methods, {0, 0, 0, 0}};
void *PyInit_fused_adam_op(void) { return PyModule_Create2(&definition, 1013); }
"""
"""An extension module in plain C, so that no header of Python is needed."""

LISTER = """#!/bin/sh
case $1 in
--list-elf) for a in {code}; do echo "ELF file    1: fused_adam_op.1.sm_$a.cubin"; done ;;
--list-ptx) for a in {ptx}; do echo "PTX file    1: fused_adam_op.1.sm_$a.ptx"; done ;;
esac
"""
"""Stands in for NVIDIA's lister, whose output for real device code has these lines."""

NOTES = "version='0.19.8'\ninstalled_ops={{'fused_adam': {installed}}}\naccelerator_name='{accelerator}'\n"


@pytest.fixture
def build(cuda_place, compile_c):
    """Install a DeepSpeed with an operator, and the lister."""

    def make(
        *,
        cuda=True,
        code="70 80 86 90",
        ptx="90",
        name="multi_tensor_adam",
        installed=True,
        accelerator="cuda",
    ):
        libraries = (
            ["-Wl,--no-as-needed", str(cuda_place.site / "nvidia/lib/libcudart.so.12")] if cuda else []
        )
        source = MODULE.replace("NAME", f'"{name}"')
        built = compile_c(cuda_place.root / "built" / "fused_adam_op.so", source, *libraries)
        cuda_place.install(
            "deepspeed",
            "0.19.8",
            {
                FILE: built.read_bytes(),
                "deepspeed/__init__.py": "",
                "deepspeed/ops/__init__.py": "",
                "deepspeed/ops/adam/__init__.py": "",
                "deepspeed/git_version_info.py": NOTES.format(installed=installed, accelerator=accelerator),
            },
        )
        lister = "triton/backends/nvidia/bin/cuobjdump"
        cuda_place.install("triton", "3.3.1", {lister: LISTER.format(code=code, ptx=ptx)})
        (cuda_place.site / lister).chmod(0o755)
        cuda_place.expect["operator"] = {
            "name": "fused_adam",
            "module": "deepspeed.ops.adam.fused_adam_op",
            "file": FILE,
            "architectures": ["7.0", "8.0", "8.6", "9.0+PTX"],
        }
        return cuda_place

    return make


def test_a_cuda_object_for_the_locked_architectures_passes(build):
    numbers = build().ask("operator-file").passed("operator-file")
    assert numbers["machine_code"] == ["7.0", "8.0", "8.6", "9.0"]
    assert numbers["ptx"] == ["9.0"]
    assert numbers["module"] == "deepspeed.ops.adam.fused_adam_op"


def test_the_cpu_operator_under_the_same_name_fails(build):
    build(cuda=False).ask("operator-file").failed(
        "operator-file", "the CPU operator under the same name", "DS_ACCELERATOR=cuda"
    )


@pytest.mark.parametrize(
    ("code", "ptx"), [("80 86 90", "90"), ("70 80 86 90", ""), ("70 80 86 90 100", "90"), ("", "")]
)
def test_other_architectures_fail_and_both_lists_are_said(build, code, ptx):
    build(code=code, ptx=ptx).ask("operator-file").failed(
        "operator-file", "machine code for 7.0, 8.0, 8.6, 9.0; PTX for 9.0", "TORCH_CUDA_ARCH_LIST"
    )


def test_an_operator_that_deepspeed_would_compile_again_fails(build):
    build(accelerator="cpu").ask("operator-file").failed("operator-file", "accelerator: cpu")


def test_an_operator_that_deepspeed_does_not_know_of_fails(build):
    build(installed=False).ask("operator-file").failed("operator-file", "installed: False")


def test_a_missing_operator_fails(build):
    place = build()
    (place.site / FILE).unlink()
    place.ask("operator-file").failed("operator-file", "does not exist", "DS_BUILD_FUSED_ADAM=1")


def test_a_twin_that_python_may_take_instead_fails(build):
    place = build()
    (place.site / FILE).with_name("fused_adam_op.abi3.so").write_bytes(b"")
    place.ask("operator-file").failed("operator-file", "fused_adam_op.abi3.so")


def test_a_file_that_is_no_object_fails(build):
    place = build()
    (place.site / FILE).write_text("not machine code")
    place.ask("operator-file").failed("operator-file", "ELF")


def test_an_operator_without_its_function_fails(build):
    build(name="something_else").ask("operator-file").failed("operator-file", "multi_tensor_adam")


def test_an_operator_that_does_not_load_fails(build, compile_c):
    place = build()
    compile_c(
        place.site / FILE, "int x;", "-Wl,--no-as-needed", str(place.site / "nvidia/lib/libcudart.so.12")
    )
    place.ask("operator-file").failed("operator-file", "PyInit_fused_adam_op")


def test_without_the_lister_there_is_no_pass(build):
    place = build()
    (place.site / "triton/backends/nvidia/bin/cuobjdump").unlink()
    place.ask("operator-file").failed("operator-file", "cuobjdump")


def test_a_lister_that_does_not_run_is_no_pass(build):
    place = build()
    (place.site / "triton/backends/nvidia/bin/cuobjdump").chmod(0o644)
    place.ask("operator-file").failed("operator-file", "Permission denied")


def test_the_operator_shares_the_runtime_that_torch_loaded(build):
    libraries = build().ask("loaded").passed("loaded")["libraries"]
    assert libraries["libcudart"]["file"].endswith("nvidia/lib/libcudart.so.12")


def test_listings_are_read_as_cuobjdump_writes_them():
    text = (
        "ELF file    1: _C.1.sm_50.cubin\nELF file   12: _C.12.sm_90a.cubin\n"
        "ELF file   13: fused_adam_op.cpython-311-x86_64-linux-gnu.1.sm_120.cubin\n"
        "cuobjdump info    : File 'x.sm_80.cubin' does not contain device code\n"
    )
    assert architectures_listed(text) == {"5.0", "9.0", "12.0"}
    assert architectures_listed("") == frozenset()


def test_architectures_are_split_into_machine_code_and_ptx():
    assert wanted_code(["7.0", "9.0+PTX"]) == ({"7.0", "9.0"}, {"9.0"})


@pytest.mark.parametrize(
    ("gpu", "how"),
    [
        ((8, 0), "machine code"),
        ((8, 9), "machine code"),
        ((9, 0), "machine code"),
        ((10, 0), "PTX"),
        ((12, 0), "PTX"),
        ((7, 5), None),
        ((6, 1), None),
    ],
)
def test_which_gpus_code_reaches(gpu, how):
    assert runs_on(gpu, ["8.0", "9.0"], ["9.0"]) == how
