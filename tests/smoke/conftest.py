"""A real virtual environment with made-up packages, the suite beside it, and shared objects that gcc makes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from suiteseed import EMPTY

from envbuild.smoke.fingerprint import HERE

PYTHON_TAG = f"cpython-{sys.version_info.major}{sys.version_info.minor}"


def record_hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@dataclass
class Place:
    """An environment that tests damage and then ask the suite about."""

    root: Path
    site: Path
    python: Path
    suite: Path
    expect: dict[str, Any]
    environ: dict[str, str] = field(default_factory=dict)

    def install(self, name: str, version: str, files: dict[str, str | bytes] | None = None) -> Path:
        """Install a package as an installer would: files, METADATA, RECORD. Returns the dist-info folder."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        contents = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
        contents |= files or {}
        lines = []
        for path, text in contents.items():
            data = text.encode() if isinstance(text, str) else text
            target = self.site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            lines.append(f"{path},{record_hash(data)},{len(data)}")
        lines.append(f"{info}/RECORD,,")
        (self.site / info / "RECORD").write_text("\n".join(lines) + "\n")
        self.expect["packages"][name] = version
        return self.site / info

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the suite with the place's expectations."""
        file = self.root / "expect.json"
        file.write_text(json.dumps(self.expect))
        env = {**os.environ, "PYTHONPATH": str(self.suite), **self.environ}
        return subprocess.Popen(
            [str(self.python), "-P", "-s", "-m", "smoke", "--expect", str(file), *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, *checks: str, limit: float = 60) -> Answer:
        """Run the suite, or some of its checks, and read the report from stdout."""
        only = [text for check in checks for text in ("--only", check)]
        process = self.start(*only, "--limit", str(limit))
        out, err = process.communicate(timeout=200)
        assert out, err
        return Answer(code=process.returncode, report=json.loads(out), progress=err)


@dataclass
class Answer:
    code: int
    report: dict[str, Any]
    progress: str

    def check(self, name: str) -> dict[str, Any]:
        (found,) = [check for check in self.report["checks"] if check["id"] == name]
        return found

    def passed(self, name: str) -> dict[str, Any]:
        found = self.check(name)
        assert found["status"] == "passed", json.dumps(found, indent=1)
        return found["numbers"]

    def failed(self, name: str, *texts: str) -> dict[str, Any]:
        """The check must have failed, told all of it, and the whole must have failed with it."""
        found = self.check(name)
        assert found["status"] == "failed", found
        assert found["expected"]
        assert found["seen"]
        assert found["hint"]
        whole = json.dumps(found)
        for text in texts:
            assert text in whole, (text, found)
        assert self.report["result"] == "failed"
        assert self.code == 1
        assert "FAILED" in self.progress
        assert found["hint"].splitlines()[0] in self.progress
        return found


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The folder whose PYTHONPATH entry brings ``smoke`` and nothing else."""
    folder = tmp_path / "suite"
    shutil.copytree(HERE, folder / "smoke", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def place(tmp_path: Path, suite: Path) -> Place:
    """A virtual environment without any package."""
    root = tmp_path / "venv"
    venv.create(root, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return Place(
        root=tmp_path,
        site=(root / "lib" / version / "site-packages").resolve(),
        python=root / "bin" / "python",
        suite=suite,
        expect=json.loads(json.dumps(EMPTY)),
    )


@pytest.fixture
def compile_c(tmp_path: Path) -> Callable[..., Path]:
    """Make a shared object with gcc."""

    def make(target: Path, source: str, *options: str) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        code = tmp_path / f"{target.name}.c"
        code.write_text(source)
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", str(target), str(code), *options],
            check=True,
            capture_output=True,
        )
        return target

    return make


def torch_python() -> Path | None:
    """A Python that has torch and deepspeed: this one, or the one that ENVBUILD_TORCH_PYTHON names."""
    named = os.environ.get("ENVBUILD_TORCH_PYTHON")
    for python in [named] if named else [sys.executable]:
        done = subprocess.run(
            [
                python,
                "-c",
                "import importlib.util as u, sys; sys.exit(not (u.find_spec('torch') and u.find_spec('deepspeed')))",
            ],
            check=False,
        )
        if done.returncode == 0:
            return Path(python)
    return None


@pytest.fixture(scope="session")
def torch_interpreter() -> Path:
    python = torch_python()
    if python is None:
        from needed import lacking  # not where ci/gpu-tests.sh runs this folder alone

        lacking("no torch with deepspeed: set ENVBUILD_TORCH_PYTHON to a Python that has both")
    return python


@pytest.fixture
def torch_place(tmp_path: Path, suite: Path, torch_interpreter: Path) -> Place:
    """A Python with a real torch (a CPU build is enough)."""
    expect = json.loads(json.dumps(EMPTY)) | {"complete": False}
    return Place(root=tmp_path, site=tmp_path, python=torch_interpreter, suite=suite, expect=expect)


@pytest.fixture
def gpu_place(torch_place: Place) -> Place:
    """A Python with torch, DeepSpeed and its compiled operator, on a machine with GPUs: what is there is expected."""
    path = os.pathsep.join(filter(None, [str(torch_place.suite), os.environ.get("PYTHONPATH")]))
    code = "import json; from smoke.here import expect_here; print(json.dumps(expect_here().to_dict()))"
    done = subprocess.run(
        [torch_place.python, "-P", "-s", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    torch_place.environ["PYTHONPATH"] = path
    torch_place.expect.clear()
    torch_place.expect.update(json.loads(done.stdout))
    assert torch_place.expect["operator"], "install a DeepSpeed whose FusedAdam is compiled"
    return torch_place


CUDA_LIBRARIES = {
    "libcudart.so.12": "int cudaRuntimeGetVersion(int *v) { *v = 12060; return 0; }",
    "libcublas.so.12": "int cublasGetProperty(int k, int *v) { *v = k == 0 ? 12 : k == 1 ? 6 : 4; return 0; }",
    "libcudnn.so.9": "unsigned long cudnnGetVersion(void) { return 90501; }",
    "libnccl.so.2": "int ncclGetVersion(int *v) { *v = 22602; return 0; }",
}
"""Stand-ins for CUDA's libraries: real shared objects, really mapped, that know their version."""

PACKAGES = {
    "libcudart.so.12": ("nvidia-cuda-runtime-cu12", "12.6.77"),
    "libcublas.so.12": ("nvidia-cublas-cu12", "12.6.4.1"),
    "libcudnn.so.9": ("nvidia-cudnn-cu12", "9.5.1.17"),
    "libnccl.so.2": ("nvidia-nccl-cu12", "2.26.2"),
}

TORCH = """
import ctypes, pathlib
__version__ = "2.7.1+cu126"
class version: cuda = "12.6"
root = pathlib.Path(__file__).parent.parent / "nvidia" / "lib"
loaded = [ctypes.CDLL(str(path)) for path in sorted(root.glob("*.so.*"))]
class backends:
    class cudnn:
        version = staticmethod(lambda: 90501)
class cuda:
    class nccl:
        version = staticmethod(lambda: (2, 26, 2))
    is_available = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 0)
"""


@pytest.fixture
def cuda_place(place: Place, compile_c: Callable[..., Path]) -> Place:
    """An environment whose ``torch`` maps one of each CUDA library, as the real one does; its root is the place's."""
    for name, source in CUDA_LIBRARIES.items():
        built = compile_c(place.root / "built" / name, source, f"-Wl,-soname,{name}")
        package, version = PACKAGES[name]
        place.install(package, version, {f"nvidia/lib/{name}": built.read_bytes()})
        place.expect["libraries"].append({"stem": name.split(".")[0], "package": package, "version": version})
    place.install("torch", "2.7.1", {"torch/__init__.py": TORCH})
    searched = place.suite / "smoke/copies.py"
    text = searched.read_text()
    for said, instead in {"/": place.root, "/etc/ld.so.conf": place.root / "ld.so.conf"}.items():
        assert f'= Path("{said}")' in text
        text = text.replace(f'= Path("{said}")', f"= Path({str(instead)!r})")
    searched.write_text(text)
    shutil.rmtree(place.root / "built")
    place.expect["cuda"] = "12.6"
    place.expect["hashed"] = sorted(place.expect["packages"])
    place.expect["imports"] = ["torch"]
    return place
