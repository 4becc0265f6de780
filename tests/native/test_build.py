"""The whole way on small stand-ins: lay out, build in the sandbox, check, adopt, find again; and its failures.

DeepSpeed's stand-in is a source distribution whose setup.py compiles one module with gcc and packs a wheel; this
machine's own root filesystem is the base.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from nativemaker import artifact, fatbin, make_deb, make_sdist, make_wheel, script

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact, Lock, NativeLock
from envbuild.native import build_operator
from envbuild.native.inputs import BUILD_PACKAGES
from envbuild.native.toolchain import CUDA_12
from envbuild.progress import SilentProgress, Task
from envbuild.recipe.model import Ref
from envbuild.sandbox import Sandbox
from envbuild.store import Store

SETUP = script(
    """
    import os, subprocess, sys, zipfile
    import torch, setuptools
    assert torch.SAYS == "stand-in", torch
    target = sys.argv[sys.argv.index("--dist-dir") + 1]
    cuda = os.environ["DS_ACCELERATOR"] == "cuda" and {cuda}
    code = {code!r}
    with open("module.c", "w") as file:
        file.write("int cudaRuntime(void); int call(void) {{ return %s; }}\\n" % ("cudaRuntime()" if cuda else "0"))
        numbers = ",".join(str(byte) for byte in code)
        file.write('__attribute__((section(".nv_fatbin"), used)) ')
        file.write("static const unsigned char codes[] = {{%s}};\\n" % numbers)
    library = os.environ["CUDA_HOME"] + "/lib64"
    links = ["-L" + library, "-lcudart", "-Wl,--unresolved-symbols=ignore-all"] if cuda else []
    subprocess.run(["gcc", "-g", "-shared", "-fPIC", "-o", "m.so", "module.c", *links], check=True)
    with zipfile.ZipFile(target + "/deepspeed-0.19.8-cp311-cp311-linux_x86_64.whl", "w") as wheel:
        wheel.write("m.so", "deepspeed/ops/adam/fused_adam_op.cpython-311-x86_64-linux-gnu.so")
        wheel.writestr("deepspeed-0.19.8.dist-info/METADATA", "jobs do not matter")
        wheel.writestr("deepspeed-0.19.8.dist-info/RECORD", "")
    """
)
GOOD = SETUP.format(cuda=True, code=fatbin(cubin=(80, 90), ptx=(90,)))


@dataclass
class Steps:
    """Remembers what it was told."""

    labels: list[str] = field(default_factory=list)

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "B") -> Iterator[Task]:
        self.labels.append(label)
        with SilentProgress().task(label, total=total, unit=unit) as task:
            yield task

    def note(self, text: str) -> None:
        self.labels.append(text)


@dataclass
class World:
    folder: Path
    store: Store
    steps: Steps = field(default_factory=Steps)

    def put(self, path: Path, **about: str) -> Artifact:
        made = artifact(path, kind=about["kind"], name=about["name"], version=about.get("version", "1"))  # type: ignore[arg-type]  # a Kind
        self.store.adopt(path)
        return made

    def wheel(self, name: str, files: dict[str, bytes]) -> Artifact:
        path = make_wheel(self.folder / f"{name}-1-py3-none-any.whl", files)
        return self.put(path, kind="wheel", name=name)

    def lock(self, setup: str) -> Lock:
        sdist = make_sdist(self.folder / "deepspeed-0.19.8.tar.gz", {"setup.py": setup})
        pieces: dict[str, dict[str, bytes]] = {}
        for piece in CUDA_12:
            name = f"{piece.source}{piece.artifact}.h" if piece.source.endswith("/") else piece.source
            pieces.setdefault(piece.artifact, {})[name] = piece.artifact.encode()
        deb = make_deb(self.folder / "toolkit.deb", pieces.pop("nvidia-cuda-toolkit"))
        runtime = (self.folder / "cudart.so").read_bytes()
        pieces["nvidia-cuda-runtime-cu12"]["nvidia/cuda_runtime/lib/libcudart.so.12"] = runtime
        wheels = {name: self.wheel(name, files) for name, files in pieces.items()}
        tools = [wheels.pop(name) for name in ("nvidia-cuda-nvcc-cu12", "nvidia-cuda-cccl-cu12")]
        build = [self.wheel(name, {f"{name.replace('-', '_')}.py": b""}) for name in BUILD_PACKAGES]
        torch = self.wheel("torch", {"torch/__init__.py": b"SAYS = 'stand-in'\n"})
        recipe: dict[str, object] = {
            "python": {"version": "3.11"},
            "cuda": {"version": "12.6"},
            "deepspeed": {"operators": ["fused_adam"], "architectures": ["8.0", "9.0+PTX"]},
        }
        return Lock(
            format=2, ref=Ref(name="small", tag="v1"), recipe=recipe, resolved="2026-11-20",
            created="2026-11-20T00:00:00Z", debian=(), python=(torch, *wheels.values()), image=None,
            native=NativeLock(
                source=self.put(sdist, kind="sdist", name="deepspeed", version="0.19.8"),
                toolchain=(self.put(deb, kind="deb", name="nvidia-cuda-toolkit"), *tools),
                build=tuple(build),
                wheel=None,
            ),
        )  # fmt: skip

    def build(self, lock: Lock, *, jobs: int = 1) -> Artifact:
        return build_operator(
            lock,
            base_root=Path("/"),
            sandbox=Sandbox.detect(),
            store=self.store,
            progress=self.steps,
            jobs=jobs,
        )


def make_world(folder: Path) -> World:
    import subprocess

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c.c").write_text("int cudaRuntime(void) { return 0; }\n")
    argv = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcudart.so.12", "-o", "cudart.so", "c.c"]
    subprocess.run(argv, cwd=folder, check=True)
    return World(folder=folder, store=Store.open(folder / "store"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "world")


def test_the_wheel_is_built_checked_and_adopted(world: World) -> None:
    lock = world.lock(GOOD)
    wheel = world.build(lock)
    assert (wheel.kind, wheel.name, wheel.version, wheel.index) == ("wheel", "deepspeed", "0.19.8", "built")
    assert wheel.file == "deepspeed-0.19.8-cp311-cp311-linux_x86_64.whl"
    path = world.store.artifact(wheel.sha256)
    assert path.stat().st_size == wheel.size
    with zipfile.ZipFile(path) as archive:
        module = archive.read("deepspeed/ops/adam/fused_adam_op.cpython-311-x86_64-linux-gnu.so")
    assert b".debug_info" not in module
    assert any("fused_adam" in label and "9.0+PTX" in label for label in world.steps.labels)
    assert not list((world.store.root / "tmp").iterdir())


def test_it_is_compiled_once(world: World) -> None:
    lock = world.lock(GOOD)
    first = world.build(lock)
    world.steps.labels.clear()
    assert world.build(lock) == first
    assert not world.steps.labels


def test_a_wheel_that_the_store_lost_is_built_again(world: World) -> None:
    lock = world.lock(GOOD)
    first = world.build(lock)
    world.store.artifact(first.sha256).unlink()
    assert world.build(lock) == first
    assert world.store.has(first.sha256, first.size)


def test_jobs_and_folder_do_not_change_the_bytes(world: World, tmp_path: Path) -> None:
    other = make_world(tmp_path / "quite" / "another" / "folder")
    assert world.build(world.lock(GOOD), jobs=1) == other.build(other.lock(GOOD), jobs=4)


@pytest.mark.parametrize(
    ("setup", "id"),
    [
        (SETUP.format(cuda=False, code=fatbin(cubin=(80, 90), ptx=(90,))), "operator-not-cuda"),
        (SETUP.format(cuda=True, code=fatbin(cubin=(80,), ptx=(90,))), "operator-architectures"),
        (GOOD.replace("fused_adam_op", "other_op"), "operator-missing"),
    ],
)
def test_what_is_not_the_cuda_operator_is_not_adopted(world: World, setup: str, id: str) -> None:
    lock = world.lock(setup)
    before = sorted((world.store.root / "artifacts" / "sha256").iterdir())
    for _ in range(2):
        with pytest.raises(EnvbuildError) as caught:
            world.build(lock)
        assert (caught.value.id, caught.value.exit) == (id, Exit.VERIFY)
    assert sorted((world.store.root / "artifacts" / "sha256").iterdir()) == before


def test_a_build_that_fails_shows_the_end_of_its_log_and_keeps_it(world: World) -> None:
    setup = "for n in range(100): print('line', n)\nraise SystemExit('nvcc fatal: Unsupported gpu architecture')\n"
    with pytest.raises(EnvbuildError) as caught:
        world.build(world.lock(setup))
    error = caught.value
    assert (error.id, error.exit) == ("operator-build-failed", Exit.ENGINE)
    assert "nvcc fatal: Unsupported gpu architecture" in error.message
    assert "line 99" in error.message
    assert "line 5\n" not in error.message
    assert error.where is not None
    assert "line 5\n" in Path(error.where).read_text()
    assert error.where in error.hint


def test_the_build_has_no_network_and_none_of_the_callers_environment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_BUILD_CPU_ADAM", "1")
    setup = script(
        """
        import os, socket
        print("interfaces:", [name for _, name in socket.if_nameindex()])
        print("leaked:", sorted(name for name in os.environ if "CPU_ADAM" in name))
        print("here:", os.getcwd(), os.environ["CUDA_HOME"])
        raise SystemExit(1)
        """
    )
    with pytest.raises(EnvbuildError) as caught:
        world.build(world.lock(setup))
    assert "interfaces: ['lo']" in caught.value.message
    assert "leaked: []" in caught.value.message
    assert "here: /build/src /build/cuda" in caught.value.message


def test_a_damaged_input_is_refused_by_name(world: World) -> None:
    lock = world.lock(GOOD)
    broken = world.folder / "torch.whl"
    broken.write_bytes(b"PK not a wheel")
    torch = replace(artifact(broken, kind="wheel", name="torch"), file="torch-2.7.1-broken.whl")
    world.store.adopt(broken)
    python = tuple(torch if wheel.name == "torch" else wheel for wheel in lock.python)
    with pytest.raises(EnvbuildError, match=r"torch-2\.7\.1-broken\.whl") as caught:
        world.build(replace(lock, python=python))
    assert caught.value.exit == Exit.VERIFY


@pytest.mark.parametrize("linked", ["folder", "wheel"])
def test_a_wheel_that_is_a_link_to_this_machine_is_not_taken(
    world: World, tmp_path: Path, linked: str
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    decoy = make_wheel(host / "deepspeed-0.19.8-cp311-cp311-linux_x86_64.whl", {"secret": b"of the host"})
    act = (
        f"import os; os.rename('/build/out', '/build/old'); os.symlink({str(host)!r}, '/build/out')\n"
        f"os.makedirs({str(host)!r}, exist_ok=True)\n"
        if linked == "folder"
        else f"import os; os.symlink({str(decoy)!r}, '/build/out/{decoy.name}'); os._exit(0)\n"
    )
    lock = world.lock(act + GOOD)
    before = sorted((world.store.root / "artifacts" / "sha256").iterdir())
    with pytest.raises(EnvbuildError) as caught:
        world.build(lock)
    assert (caught.value.id, caught.value.exit) == ("operator-build-failed", Exit.ENGINE)
    assert sorted((world.store.root / "artifacts" / "sha256").iterdir()) == before
    assert decoy.exists()
