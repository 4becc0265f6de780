"""A module that is not the CUDA operator for every locked architecture is refused, and the message says why."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nativemaker import fatbin, make_module, make_wheel

from envbuild.errors import EnvbuildError, Exit
from envbuild.native.objects import gpu_code, needed
from envbuild.native.verify import check_module, check_wheel, expected_code

RECIPE = ("7.0", "8.0", "8.6", "9.0+PTX")
COMPLETE = fatbin(cubin=(70, 80, 86, 90), ptx=(90,))


def refusal(data: bytes) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        check_module("fused_adam", data, architectures=RECIPE, where="w.whl:m.so")
    assert caught.value.exit == Exit.VERIFY
    assert caught.value.where == "w.whl:m.so"
    return caught.value


def test_the_cuda_operator_passes(tmp_path: Path) -> None:
    module = make_module(tmp_path, cuda=True, code=COMPLETE).read_bytes()
    check_module("fused_adam", module, architectures=RECIPE, where="m.so")
    assert gpu_code(module).cubin == (70, 80, 86, 90)
    assert gpu_code(module).ptx == (90,)
    assert "libcudart.so.12" in needed(module)


def test_the_cpu_operator_is_refused(tmp_path: Path) -> None:
    error = refusal(make_module(tmp_path, cuda=False).read_bytes())
    assert error.id == "operator-not-cuda"
    assert "libcudart" in error.message


def test_gpu_code_without_the_runtime_is_refused(tmp_path: Path) -> None:
    assert refusal(make_module(tmp_path, cuda=False, code=COMPLETE).read_bytes()).id == "operator-not-cuda"


@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        (b"", "lacks sm_70, sm_80, sm_86, sm_90, PTX for 90; it has no GPU code"),
        (fatbin(cubin=(70, 80, 90), ptx=(90,)), "lacks sm_86; it has sm_70, sm_80, sm_90, PTX for 90"),
        (fatbin(cubin=(70, 80, 86, 90)), "lacks PTX for 90;"),
        (fatbin(cubin=(70, 80, 86), ptx=(90,)), "lacks sm_90;"),
    ],
)
def test_a_missing_architecture_is_named(tmp_path: Path, code: bytes, lacks: str) -> None:
    error = refusal(make_module(tmp_path, cuda=True, code=code).read_bytes())
    assert error.id == "operator-architectures"
    assert lacks in error.message


def test_codes_in_several_fat_binaries_count_together(tmp_path: Path) -> None:
    parts = [fatbin(cubin=(70, 80)), bytes(8), fatbin(cubin=(86, 90)), fatbin(cubin=(), ptx=(90,))]
    module = make_module(tmp_path, cuda=True, code=b"".join(parts))
    check_module("fused_adam", module.read_bytes(), architectures=RECIPE, where="m.so")


@pytest.mark.parametrize("code", [COMPLETE[:-8], b"\x01" * 64, COMPLETE[:16] + bytes(len(COMPLETE) - 16)])
def test_a_damaged_fat_binary_is_refused(tmp_path: Path, code: bytes) -> None:
    assert refusal(make_module(tmp_path, cuda=True, code=code).read_bytes()).id == "operator-not-cuda"


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_module(tmp_path_factory.mktemp("module"), cuda=True, code=COMPLETE).read_bytes()


@given(data=st.data())
def test_a_damaged_object_is_refused_and_never_crashes_the_reader(module: bytes, data: st.DataObject) -> None:
    damaged = bytearray(module[: data.draw(st.integers(0, len(module)))])
    for at in data.draw(st.lists(st.integers(0, 0x4000), max_size=20)):
        if at < len(damaged):
            damaged[at] = data.draw(st.integers(0, 255))
    for read in (needed, gpu_code):
        with suppress(ValueError):
            read(bytes(damaged))


@pytest.mark.parametrize(
    ("files", "id"),
    [
        ({}, "operator-missing"),
        ({"deepspeed/ops/adam/fused_adam.py": b""}, "operator-missing"),
        ({f"deepspeed/ops/adam/fused_adam_op.{n}.so": b"" for n in "ab"}, "operator-missing"),
        ({"deepspeed/ops/adam/fused_adam_op.cpython-311-x86_64-linux-gnu.so": b""}, "operator-not-cuda"),
    ],
)  # fmt: skip
def test_a_wheel_without_the_operator_is_refused(tmp_path: Path, files: dict[str, bytes], id: str) -> None:
    wheel = make_wheel(tmp_path / "deepspeed.whl", files)
    with pytest.raises(EnvbuildError) as caught:
        check_wheel(wheel, operators=("fused_adam",), architectures=RECIPE)
    assert caught.value.id == id


def test_architectures_are_numbered_as_cuda_does() -> None:
    assert expected_code(["7.5", "9.0+PTX", "12.0+PTX"]) == ((75, 90, 120), (90, 120))
