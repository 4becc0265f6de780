"""What is compiled again when something changes: the inputs' key, on small locks."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact, Kind, Lock, NativeLock
from envbuild.native.inputs import BUILD_PACKAGES, inputs_of
from envbuild.native.operator import environment
from envbuild.recipe.model import Ref

CUDA_12 = ("cublas-cu12", "cuda-runtime-cu12", "cudnn-cu12", "cusolver-cu12", "cusparse-cu12", "nccl-cu12")
OTHERS = (
    "torch",
    "torchvision",
    "tqdm",
    "pydantic",
    "nvidia-ml-py",
    "setuptools",
    "packaging",
    "typing-extensions",
)
DEBS = ("gcc-12", "g++-12", "libc6-dev", "libpython3.11-dev", "binutils", "zlib1g", "less", "git", "libcurl4")


def item(name: str, kind: Kind = "wheel", content: str = "1") -> Artifact:
    return Artifact(
        kind=kind, name=name, version=content, file=f"{name}-{content}", size=1, index="python",
        sha256=hashlib.sha256(f"{name} {content}".encode()).hexdigest(),
    )  # fmt: skip


def make_lock() -> Lock:
    recipe: dict[str, object] = {
        "python": {"version": "3.11"},
        "cuda": {"version": "12.6"},
        "deepspeed": {"operators": ["fused_adam"], "architectures": ["8.0", "9.0+PTX"]},
    }
    toolchain = (
        item("nvidia-cuda-toolkit", "deb"),
        item("nvidia-cuda-nvcc-cu12"),
        item("nvidia-cuda-cccl-cu12"),
    )
    return Lock(
        format=2,
        ref=Ref(name="pytorch-cuda", tag="v2.7"),
        recipe=recipe,
        resolved="2026-11-20",
        created="2026-11-20T00:00:00Z",
        debian=tuple(item(name, "deb") for name in DEBS),
        python=tuple(item(name) for name in (*(f"nvidia-{name}" for name in CUDA_12), *OTHERS)),
        native=NativeLock(source=item("deepspeed", "sdist"), toolchain=toolchain, build=(), wheel=None),
        image=None,
    )


def key(lock: Lock, script: bytes = b"script") -> str:
    return inputs_of(lock).key(script)


def upgraded(lock: Lock, name: str) -> Lock:
    def newer(artifacts: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
        return tuple(item(a.name, a.kind, "2") if a.name == name else a for a in artifacts)

    native = lock.native
    assert native is not None
    native = replace(
        native,
        toolchain=newer(native.toolchain),
        build=newer(native.build),
        source=newer((native.source,))[0],
    )
    return replace(lock, python=newer(lock.python), debian=newer(lock.debian), native=native)


@pytest.mark.parametrize(
    "name", ["tqdm", "pydantic", "torchvision", "nvidia-ml-py", "less", "git", "libcurl4"]
)
def test_what_does_not_reach_the_build_does_not_compile_again(name: str) -> None:
    lock = make_lock()
    assert upgraded(lock, name) != lock
    assert key(upgraded(lock, name)) == key(lock)


@pytest.mark.parametrize(
    "name",
    [
        "torch", "setuptools", "packaging", "typing-extensions", "nvidia-cudnn-cu12", "nvidia-cuda-runtime-cu12",
        "nvidia-cuda-toolkit", "nvidia-cuda-cccl-cu12", "deepspeed", "gcc-12", "g++-12", "libc6-dev",
        "libpython3.11-dev", "binutils", "zlib1g",
    ],
)  # fmt: skip
def test_what_reaches_the_build_compiles_again(name: str) -> None:
    lock = make_lock()
    assert key(upgraded(lock, name)) != key(lock)


def test_architectures_and_the_script_are_inputs() -> None:
    lock = make_lock()
    other = {"operators": ["fused_adam"], "architectures": ["8.0"]}
    assert key(replace(lock, recipe={**lock.recipe, "deepspeed": other})) != key(lock)
    assert key(lock, b"another script") != key(lock)


def test_the_order_in_the_lock_is_no_input() -> None:
    lock = make_lock()
    assert key(replace(lock, python=lock.python[::-1], debian=lock.debian[::-1])) == key(lock)


def test_the_builds_own_packages_go_before_the_images() -> None:
    lock = make_lock()
    assert lock.native is not None
    own = tuple(item(name, content="own") for name in BUILD_PACKAGES)
    pinned = replace(lock, native=replace(lock.native, build=own))
    assert {wheel.name for wheel in inputs_of(pinned).site if wheel.version == "own"} == set(BUILD_PACKAGES)
    assert key(upgraded(pinned, "torch")) != key(pinned)
    image = tuple(item(a.name, content="3") if a.name == "setuptools" else a for a in pinned.python)
    assert key(replace(pinned, python=image)) == key(pinned)


@pytest.mark.parametrize("name", ["torch", "setuptools", "nvidia-cuda-toolkit", "nvidia-cublas-cu12"])
def test_a_lock_that_lacks_an_input_is_refused_by_name(name: str) -> None:
    lock = make_lock()
    assert lock.native is not None
    toolchain = tuple(a for a in lock.native.toolchain if a.name != name)
    python = tuple(a for a in lock.python if a.name != name)
    with pytest.raises(EnvbuildError, match=name) as caught:
        inputs_of(replace(lock, python=python, native=replace(lock.native, toolchain=toolchain)))
    assert caught.value.exit == Exit.INPUT
    assert "envbuild lock pytorch-cuda:v2.7" in caught.value.hint


def test_the_environment_asks_for_the_cuda_operator_and_only_the_listed_ones() -> None:
    env = environment(inputs_of(make_lock()), jobs=3)
    assert env["DS_ACCELERATOR"] == "cuda"
    assert env["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0+PTX"
    assert {name: value for name, value in env.items() if name.startswith("DS_BUILD_")} == {
        "DS_BUILD_FUSED_ADAM": "1"
    }
    assert env["MAX_JOBS"] == "3"


def test_only_the_speed_depends_on_jobs() -> None:
    inputs = inputs_of(make_lock())
    one, many = environment(inputs, jobs=1), environment(inputs, jobs=8)
    assert {name for name in one if one[name] != many[name]} == {"MAX_JOBS", "NVCC_APPEND_FLAGS"}
